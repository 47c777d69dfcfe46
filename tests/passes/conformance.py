"""Every spelling with what it is to be read as: the table from which tests and docs/spellings.md are made.

``python tests/passes/conformance.py`` writes the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs
import torch

from passes.meanings import RopeTable
from passes.spellings import matmul, opaque_matmul, opaque_quantize

__all__ = ["PAGE", "Spelled", "argument", "arguments", "page"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "spellings.md"

_INTRODUCTION = """# Spellings

What is read, and as what. Each row is a function of a module `tests/passes/spelled_*.py` that writes one thing as the code
named does; the tests trace it for every dtype given, with static and dynamic sizes, find it exactly once with these
attributes, and compare what the attributes promise (`tests/passes/interpret.py`) with the function run in eager mode: the
same bits, or within one unit in the last place of 16-bit results where the order of a sum or a library's function differs. A
norm is also read behind an addition, whose sum others may read or which is written in place. Attributes are those for bf16.
What a kernel takes of it is up to the fusions.

This page is made by `python tests/passes/conformance.py`.
"""
_BY_NAME = """## Operators by name

Products with a scale a row, a tensor or a block, fp8 and, with the scaling behind `_int_mm`, int8; and quantisers of libraries
that need not be there. `tests/passes/test_matmul.py` and `tests/passes/test_opaque_quantize.py` show what each is read as.
Those of vLLM are in [vLLM](vllm.md).
"""
_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass
class Spelled:
    """A function that spells one meaning."""

    who: str  # whose code writes it so
    function: Callable[..., Any]
    operands: tuple[str, ...]  # the names of its arguments, those of the meaning's inputs
    meaning: Callable[[torch.dtype], Any]  # x's dtype -> what it is to be read as
    dtypes: tuple[torch.dtype, ...]  # of x
    exact: bool = True  # its bits are those of the meaning's interpretation
    residual: bool = False  # a norm that is also to be read behind an addition
    sizes: tuple[int, ...] = (3, 5, 64)  # of x

    def __str__(self) -> str:
        return self.function.__name__


def argument(name: str, row: Spelled, dtype: torch.dtype) -> torch.Tensor:
    """An argument of a row's function; x has rows of zeros, of one sign and of large values."""
    if name in ("x", "residual"):
        x = programs.tensor(*row.sizes, dtype=dtype, seed=len(name))
        if name == "x":
            x[0] = x[0].abs()
            x.view(-1, x.shape[-1])[-1] *= 100
            x.view(-1, x.shape[-1])[-2, : x.shape[-1] // 2] = 0
        return x
    if name in ("weight", "bias"):
        given = getattr(row.meaning(dtype), f"{name}_dtype")
        return programs.tensor(row.sizes[-1], dtype=given, seed=len(name))
    if name == "up":
        return programs.tensor(*row.sizes, dtype=dtype, seed=3)
    if name in ("cos", "sin", "freqs"):
        return _angles(name, row, dtype)
    return torch.tensor([{"scale": 0.0173, "scale_ub": 1.9}[name]])


def _angles(name: str, row: Spelled, dtype: torch.dtype) -> torch.Tensor:
    """cos or sin of angles that all heads share, with a number of its own for each element; or e to their i-th power."""
    meaning = row.meaning(dtype)
    batch, tokens, _, _ = row.sizes
    width = meaning.turned if getattr(meaning, "table", None) is RopeTable.ELEMENT else meaning.turned // 2
    angles = programs.tensor(batch, *((1, tokens) if meaning.swapped else (tokens, 1)), width, dtype=torch.float32, seed=5)
    if name == "freqs":
        return torch.polar(torch.ones_like(angles), angles)
    return (angles.cos() if name == "cos" else angles.sin()).to(meaning.table_dtype)


def arguments(row: Spelled, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All arguments of a row's function, by name."""
    return {name: argument(name, row, dtype) for name in row.operands}


def page() -> str:
    """docs/spellings.md."""
    from spelled_activations import ACTIVATIONS
    from spelled_norms import NORMS
    from spelled_quantisers import QUANTISERS
    from spelled_ropes import ROPES

    # The second version of _scaled_mm is read where torch has it; the page is one for all.
    matmuls = {str(target) for target in matmul.ANCHORS} | {"aten._scaled_mm_v2.default"} | opaque_matmul.ANCHORS
    parts = [_INTRODUCTION]
    tables = {"Norm": NORMS, "Quantize": QUANTISERS, "Activation": ACTIVATIONS, "Rope": ROPES}
    for title, rows in tables.items():
        parts += [f"## {title}\n", "| function | written so by | dtypes | read as |\n|---|---|---|---|"]
        for row in rows:
            dtypes = ", ".join(_NAMES[dtype] for dtype in row.dtypes)
            parts.append(f"| `{row}` | {row.who} | {dtypes} | {str(row.meaning(row.dtypes[0])).replace('|', chr(92) + '|')} |")
        parts.append("")
    parts += [_BY_NAME, *(f"- `{name}`" for name in sorted(matmuls | opaque_quantize.ANCHORS)), ""]
    return "\n".join(parts)


if __name__ == "__main__":
    # As a script this file is __main__; the rows are made of the module that they import.
    import conformance

    PAGE.write_text(conformance.page())
