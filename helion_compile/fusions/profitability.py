# SPDX-License-Identifier: Apache-2.0
"""The choice between a kernel and what Inductor makes of the same chain: by what the tables hold of both, and by bytes.

A quantiser alone is left to Inductor where that puts it into the kernel that computes x: a kernel of ours would be one more,
and write and read x once more.

The choice by tables is made while a graph is compiled, so where the number of tokens is known then.  For a range of sizes the
kernel is taken: Inductor's code for the chain is part of a graph, which cannot be exchanged at run time as a library's call
can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from helion_compile.configs.gpu import has_kernels
from helion_compile.configs.row import Row
from helion_compile.fusions.inductor_kernels import needs_copy, writes_rows
from helion_compile.fusions.operands import check_kernel, value_of
from helion_compile.fusions.tuned import check_tuned, is_inductors
from helion_compile.helion_kernel import HelionKernel
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import CLONES, RESHAPES, VIEWS
from helion_compile.passes.match.clones import lies_in_rows
from helion_compile.passes.rewrite.fusion import Chain

__all__ = [
    "MARGIN",
    "beaten_by_inductor",
    "check_lone_quantizer",
    "check_operand_in_memory",
    "check_profitable_kernel",
]

MARGIN = 1.02  # two measurements of one thing differ by as much


def check_profitable_kernel(
    chain: Chain,
    kernel: HelionKernel,
    exact: bool,
    *arguments: Any,
    check: Callable[[Chain], Refusal | None] = lambda chain: None,
) -> Refusal | None:
    """Why ``kernel`` cannot take these fake arguments, or why Inductor's own kernel is the better way here.

    Args:
        check: asked before the tables, so that a chain without any is judged by it too.
    """
    if refusal := check_kernel(chain, kernel, *arguments) or check(chain):
        return refusal
    if exact or not all(has_kernels(argument.device.type) for argument in arguments if isinstance(argument, torch.Tensor)):
        return None
    return _check_against_inductor(chain, kernel, arguments) or check_tuned(chain, kernel, arguments)


def beaten_by_inductor(row: Row) -> bool:
    """Whether Inductor's kernel was faster than the config of this row by more than two measurements differ."""
    return row.us is not None and row.us > MARGIN * row.baselines.get("inductor", float("inf"))


def check_lone_quantizer(chain: Chain) -> Refusal | None:
    """Why Inductor's kernel that computes x is the place for a quantiser alone; in default numerics."""
    if not is_inductors(chain):
        return None
    x = chain.inputs["x"]
    if not lies_in_rows(value_of(x)):
        found = "x lies in memory with strides {strides}, and would be cloned into rows before; Inductor reads it as it lies"
        return chain.refuse(RefusalKind.UNPROFITABLE, found, "contiguous before, it fuses", strides=value_of(x).stride())
    maker = _find_pointwise_maker(chain, x)
    if maker is None:
        return None
    return chain.refuse(
        RefusalKind.UNPROFITABLE,
        "x comes from {maker} at {where}, into whose kernel Inductor puts the quantiser; for a kernel of its own x would be "
        "written and read once more",
        "behind a norm, an activation, a matmul, attention or a graph's input it fuses",
        maker=str(maker.target),
        where=Location.of(maker),
    )


def check_operand_in_memory(chain: Chain, name: str) -> Refusal | None:
    """Why Inductor's kernel that computes an input of a chain is the place for the chain; in default numerics."""
    maker = _find_pointwise_maker(chain, chain.inputs[name]) if is_inductors(chain) else None
    if maker is None:
        return None
    return chain.refuse(
        RefusalKind.UNPROFITABLE,
        "{name} comes from {maker} at {where}, which Inductor puts into one kernel with the chain; for a kernel of its own "
        "{name} would be written and read once more",
        "of a matmul, attention or a graph's input it fuses",
        name=name,
        maker=str(maker.target),
        where=Location.of(maker),
    )


def _find_pointwise_maker(chain: Chain, value: Node) -> Node | None:
    """The node that computes ``value`` in one kernel of Inductor's with what reads it; None where its rows are in memory."""
    maker = value
    while (maker.target in VIEWS and not _clones(maker)) or (maker.target in CLONES and _keeps_layout(maker)):
        if chain.is_rewritten(maker):
            return None
        maker = maker.args[0]
    return None if chain.is_rewritten(maker) or writes_rows(maker) else maker


def _clones(view: Node) -> bool:
    return view.target in RESHAPES and needs_copy(view)


def _keeps_layout(clone: Node) -> bool:
    """Whether a clone lies as what it clones: Inductor drops it."""
    return value_of(clone).stride() == value_of(clone.args[0]).stride()


def _check_against_inductor(chain: Chain, kernel: HelionKernel, arguments: tuple[Any, ...]) -> Refusal | None:
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    if any(isinstance(size, torch.SymInt) for tensor in tensors for size in tensor.shape):
        return None
    if not is_inductors(chain):
        return None
    pick = kernel.pick(arguments)
    row = pick.row
    # A row of another shape or another GPU says which config to try, but not who is faster here.
    if row is None or pick.origin not in ("exact", "bucketed") or pick.other_gpu or not beaten_by_inductor(row):
        return None
    return chain.refuse(
        RefusalKind.UNPROFITABLE,
        "Inductor's kernel is faster for this case, {inductor} us against {ours} us on {gpu} ({row})",
        "where a table has the kernel faster, it fuses",
        inductor=f"{row.baselines['inductor']:.2f}",
        ours=f"{row.us:.2f}",
        gpu=pick.gpu.name,
        row=pick.sentence,
    )
