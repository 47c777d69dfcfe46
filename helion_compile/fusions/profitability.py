"""The choice between a kernel and what Inductor makes of the same chain, by what the tables hold of both.

It is made while a graph is compiled, so where the number of tokens is known then.  For a range of sizes the kernel is taken:
Inductor's code for the chain is part of a graph, which cannot be exchanged at run time as a library's call can.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from helion_compile.configs.row import Row
from helion_compile.fusions.operands import refused_by
from helion_compile.helion_kernel import HelionKernel
from helion_compile.passes.rewrite.fusion import Chain, Leave

__all__ = ["MARGIN", "beaten_by_inductor", "refused_or_left"]

DEVICES = ("cuda",)  # whose times tables hold
MARGIN = 1.02  # two measurements of one thing differ by as much


def refused_or_left(chain: Chain, kernel: HelionKernel, exact: bool, *arguments: Any) -> str | None:
    """Why ``kernel`` cannot take these fake arguments, or why Inductor's own kernel is the better way here."""
    return refused_by(kernel, *arguments) or (None if exact else _left(chain, kernel, arguments))


def beaten_by_inductor(row: Row) -> bool:
    """Whether Inductor's kernel was faster than the config of this row by more than two measurements differ."""
    return row.us is not None and row.us > MARGIN * row.baselines.get("inductor", float("inf"))


def _left(chain: Chain, kernel: HelionKernel, arguments: tuple[Any, ...]) -> Leave | None:
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    if any(isinstance(size, torch.SymInt) for tensor in tensors for size in tensor.shape):
        return None
    if any(tensor.device.type not in DEVICES for tensor in tensors) or not _is_inductors(chain):
        return None
    pick = kernel.pick(arguments)
    row = pick.row
    # A row of another shape or another GPU says which config to try, but not who is faster here.
    if row is None or pick.origin not in ("exact", "bucketed") or pick.other_gpu or not beaten_by_inductor(row):
        return None
    return Leave(
        f"Inductor's kernel is faster for this case, {row.baselines['inductor']:.2f} us against {row.us:.2f} us on "
        f"{pick.gpu.name} ({pick.sentence})"
    )


def _is_inductors(chain: Chain) -> bool:
    """Whether Inductor would make code of the whole chain; it calls operators of others, one by one."""
    return all(
        node.target is operator.getitem or getattr(node.target, "namespace", "") in ("aten", "prims") for node in chain.nodes
    )
