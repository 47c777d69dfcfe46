# SPDX-License-Identifier: Apache-2.0
"""Whether anything vouches for a kernel in a case: rows of a table, or a measurement of its default config.

Both say something of one scheme on one architecture.  Where neither does, the chain stays with Inductor or the library.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch

from helion_compile.configs.table import Pick
from helion_compile.helion_kernel import HelionKernel
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.rewrite.fusion import Chain
from helion_compile.passes.semantics import Activation, Concat, Quantize

__all__ = ["check_tuned", "is_inductors"]

FEW_TOKENS = 16  # stands for sizes that are not known


def check_tuned(chain: Chain, kernel: HelionKernel, arguments: Iterable[Any]) -> Refusal | None:
    """Why nothing says that ``kernel`` is not slower than what runs without it; for fake arguments on a GPU."""
    given = tuple(arguments)
    pick = kernel.pick(tuple(_with_sizes(argument) for argument in given))
    theirs = is_inductors(chain)
    if theirs and _is_pointwise(chain) and not (_has_sizes(given) and _is_faster(pick)):
        return chain.refuse(
            RefusalKind.UNPROFITABLE,
            "with a static scale no element needs its row, and Inductor's kernel for the chain is as fast ({row})",
            "where a table has the kernel faster for this number of tokens, it fuses",
            row=pick.sentence,
        )
    if pick.origin != "default" or (theirs and pick.gpu.arch in kernel.configs.measured_on):
        return None
    return chain.refuse(
        RefusalKind.UNTUNED,
        "nothing says that {kernel} is faster here: {row}",
        "`python -m helion_compile tune {kernel}` makes a table that does; with untuned=True it fuses without",
        kernel=kernel.short_name,
        row=pick.sentence,
    )


def is_inductors(chain: Chain) -> bool:
    """Whether Inductor would make code of the whole chain; it calls operators of others, one by one."""
    return all(
        node.target is operator.getitem or getattr(node.target, "namespace", "") in ("aten", "prims") for node in chain.nodes
    )


def _is_pointwise(chain: Chain) -> bool:
    ops = [match.op for match in chain.matches]
    return all(isinstance(op, (Activation, Concat, Quantize)) for op in ops) and not any(
        isinstance(op, Quantize) and op.dynamic for op in ops
    )


def _is_faster(pick: Pick) -> bool:
    """Whether a row of this very case has a time below Inductor's."""
    row = pick.row
    if row is None or row.us is None or pick.origin not in ("exact", "bucketed") or pick.other_gpu:
        return False
    return row.us < row.baselines.get("inductor", 0.0)


def _has_sizes(arguments: tuple[Any, ...]) -> bool:
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    return not any(isinstance(size, torch.SymInt) for tensor in tensors for size in tensor.shape)


def _with_sizes(argument: Any) -> Any:
    """An argument in which numbers stand for unknown sizes; which scheme it is of does not hang on them."""
    if not isinstance(argument, torch.Tensor) or _has_sizes((argument,)):
        return argument
    sizes = [FEW_TOKENS if isinstance(size, torch.SymInt) else size for size in argument.shape]
    return torch.empty(sizes, dtype=argument.dtype, device="meta")
