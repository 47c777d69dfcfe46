# SPDX-License-Identifier: Apache-2.0
"""Every pattern with what it is to be read as: the table from which tests and docs/patterns.md are made.

``python -m tests.support.conformance`` writes the page.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from helion_compile.passes.semantics import Granularity, RopeTable
from tests.support import ROOT
from tests.support.tensors import tensor

__all__ = ["PAGE", "Written", "argument", "arguments", "of_any_number_of_rows", "page"]

PAGE = ROOT / "docs" / "patterns.md"

_INTRODUCTION = """# Patterns

What is matched, and as which semantic op. Each row is a function that writes one op as the code named does. The tests trace it
for every dtype given, with static and dynamic sizes, and must match it exactly once, with these attributes. They compare what
the attributes promise with the function run in eager mode. Both give the same bits. Where the order of a sum or a library's
function differs, 16-bit results may differ by one unit in the last place. A norm is also matched behind an addition. Others
may read that sum, and it may be written in place. Attributes are those for bf16. What a kernel takes of it is up to the
fusions.

This page is made by `python -m tests.support.conformance`.
"""
_UNDER_TABLES = {
    "Modulate": """A product with a factor of each batch is a modulation behind a norm alone, so the tests put a LayerNorm in
front.
""",
    "Concat": """The second part is an activation's, so the tests put a gelu in front.
""",
    "Matmul": """Dtypes are those of the result. None of torch 2.11, 2.13 and 2.15 multiplies blocks on a CPU. So these are
matched, and nothing is compared. torch 2.11 multiplies no rows there, and does not trace `F.scaled_mm`.
`tests/passes/patterns/aten/test_matmul.py` has other shapes of scales, and the partial matches.
""",
}
_ELSEWHERE = """## Operators of libraries

Those of MSLK, FBGEMM and torchao are in the tables above. Their stubs are plain torch (`tests/support/stubs.py`), so the
libraries need not be there. Operators of vLLM, its GEMMs among them, are in [vLLM](vllm.md). They write to their arguments,
which no torch code does, so `tests/passes/patterns/custom_ops` matches them in graphs.
"""
_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass
class Written:
    """A function that writes one semantic op."""

    who: str  # whose code writes it so
    function: Callable[..., Any]
    operands: tuple[str, ...]  # the names of its arguments, those of the op's inputs
    op: Callable[[torch.dtype], Any]  # x's dtype -> what it is to be read as
    dtypes: tuple[torch.dtype, ...]  # of x; of a product, of its result
    exact: bool = True  # its bits are those of the op's interpretation
    residual: bool = False  # a norm that is also to be read behind an addition
    sizes: tuple[int, ...] = (3, 5, 64)  # of x; of a product, M, K and N
    scales: tuple[tuple[int, ...], ...] = ()  # of a product: the shapes of a's and b's
    told: bool = False  # the function also takes the dtype
    traced: bool = True  # by this torch
    runs: bool = True  # in eager mode, on a CPU with this torch
    behind: Callable[..., Any] | None = None  # what computes its first input, for an op that is one behind another alone

    def __str__(self) -> str:
        return self.function.__name__

    def of(self, dtype: torch.dtype) -> Callable[..., Any]:
        """The function of tensors alone."""
        return functools.partial(self.function, dtype=dtype) if self.told else self.function


def argument(name: str, row: Written, dtype: torch.dtype) -> torch.Tensor:
    """An argument of a row's function; x has rows of zeros, of one sign and of large values."""
    if row.scales:
        return _of_product(name, row, dtype)
    if name in ("x", "residual"):
        x = tensor(*row.sizes, dtype=dtype, seed=len(name))
        if name == "x":
            x[0] = x[0].abs()
            x.view(-1, x.shape[-1])[-1] *= 100
            x.view(-1, x.shape[-1])[-2, : x.shape[-1] // 2] = 0
        return x
    if name in ("weight", "bias"):
        given = getattr(row.op(dtype), f"{name}_dtype")
        return tensor(row.sizes[-1], dtype=given, seed=len(name))
    if name in ("mod_scale", "mod_shift"):
        batches, *_, k = row.sizes
        return tensor(batches, 1, k, dtype=row.op(dtype).scale_dtype, seed=len(name))
    if name in ("front", "back"):
        return tensor(*row.sizes[:-1], row.sizes[-1] * (1 if name == "front" else 4), dtype=dtype, seed=len(name))
    if name == "up":
        return tensor(*row.sizes, dtype=dtype, seed=3)
    if name in ("cos", "sin", "freqs"):
        return _angles(name, row, dtype)
    return torch.tensor([{"scale": 0.0173, "scale_ub": 1.9}[name]])


def _angles(name: str, row: Written, dtype: torch.dtype) -> torch.Tensor:
    """cos or sin of angles that all heads share, with a number of its own for each element; or e to their i-th power."""
    op = row.op(dtype)
    batch, tokens, _, _ = row.sizes
    width = op.rotary_dim if getattr(op, "table", None) is RopeTable.ELEMENT else op.rotary_dim // 2
    angles = tensor(batch, *((1, tokens) if op.transposed else (tokens, 1)), width, dtype=torch.float32, seed=5)
    if name == "freqs":
        angles = angles.to(op.computed)  # complex64 of fp32, complex128 of fp64
        return torch.polar(torch.ones_like(angles), angles)
    return (angles.cos() if name == "cos" else angles.sin()).to(op.table_dtype)


def _of_product(name: str, row: Written, dtype: torch.dtype) -> torch.Tensor:
    """a [M, K]; b [K, N], or [N, K] where it is rows; bias [N]; scales, those of blocks column-major."""
    op, (m, k, n) = row.op(dtype), row.sizes
    if name == "bias":
        return tensor(n, dtype=dtype, seed=4)
    if name in ("a_scale", "b_scale"):
        shape = row.scales[name == "b_scale"]
        scale = tensor(math.prod(shape), dtype=op.scale_dtype, seed=ord(name[0])).abs() / 4
        return scale.view(*reversed(shape)).t() if op.a_scales is Granularity.GROUP else scale.view(shape)
    values = tensor(*((m, k) if name == "a" else (n, k)), dtype=torch.float32, seed=ord(name))
    if op.operands == torch.int8:
        values = (values * 40).clamp(-128, 127).round()
    values = values.to(op.operands)
    return values if name == "a" or op.b_is_rows else values.t()


def arguments(row: Written, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All arguments of a row's function, by name."""
    return {name: argument(name, row, dtype) for name in row.operands}


def of_any_number_of_rows(row: Written, given: dict[str, torch.Tensor]) -> None:
    """Mark as unknown how many rows the first argument has, and the others that have as many."""
    rows = given[row.operands[0]].shape[0]
    for each in given.values():
        if each.dim() > 1 and each.shape[0] == rows:
            torch._dynamo.mark_dynamic(each, 0)


def page() -> str:
    """docs/patterns.md."""
    from tests.support.corpus.activations import ACTIVATIONS
    from tests.support.corpus.all_quantisers import OPAQUE_QUANTISERS, QUANTISERS
    from tests.support.corpus.concats import CONCATS
    from tests.support.corpus.matmuls import PRODUCTS
    from tests.support.corpus.modulations import MODULATIONS
    from tests.support.corpus.norms import NORMS
    from tests.support.corpus.ropes import ROPES

    parts = [_INTRODUCTION]
    tables = {
        "Norm": NORMS,
        "Modulate": MODULATIONS,
        "Quantize": QUANTISERS + OPAQUE_QUANTISERS,
        "Activation": ACTIVATIONS,
        "Concat": CONCATS,
        "Rope": ROPES,
        "Matmul": PRODUCTS,
    }
    for title, rows in tables.items():
        parts += [f"## {title}\n", "| function | written so by | dtypes | semantic op |\n|---|---|---|---|"]
        for row in rows:
            dtypes = ", ".join(_NAMES[dtype] for dtype in row.dtypes)
            parts.append(f"| `{row}` | {row.who} | {dtypes} | {str(row.op(row.dtypes[0])).replace('|', chr(92) + '|')} |")
        parts += ["", *([_UNDER_TABLES[title]] if title in _UNDER_TABLES else [])]
    return "\n".join([*parts, _ELSEWHERE])


if __name__ == "__main__":
    # As a script this file is __main__; the rows are made of the module that they import.
    from tests.support import conformance

    PAGE.write_text(conformance.page())
