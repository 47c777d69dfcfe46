# SPDX-License-Identifier: Apache-2.0
"""The addition in front of a norm, whose sum later layers read too.

::

    add(x, residual) → norm                                            residual
    add(mul(x, number), residual) → norm                               residual with a multiplier
    add(x.float(), residual) → norm, and → cast for other readers      unrounded sum: vLLM
    add(mul(x, gate), residual) → norm                                 gated, see ``gated``

Gives ``residual``, ``residual_multiplier`` and ``unrounded_sum`` of a ``Norm``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import cast_dtype, dtype_of, lossless, number, rounded, same_shape, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.aten.norm.gated import with_gated_residual
from helion_compile.passes.patterns.matcher import ADD, MUL, Matcher

__all__ = ["UnroundedSum", "unrounded_sum", "with_residual"]

aten = torch.ops.aten


@dataclass(frozen=True)
class UnroundedSum:
    """A sum of two 16-bit tensors that is normalised in fp32 and rounded for others only."""

    x: Node
    residual: Node
    sums: tuple[Node, ...]  # copies of the rounded sum, the first one standing for x's dtype

    @property
    def sum(self) -> Node:
        return self.sums[0]


def unrounded_sum(matcher: Matcher, total: Node) -> UnroundedSum | None:
    """``total`` as x.float() + residual, if somebody reads it rounded back to their dtype, as vLLM writes it."""
    if dtype_of(total) != torch.float32 or total.target is not aten.add.Tensor or total.kwargs.get("alpha", 1) != 1:
        return None
    x, residual = map(lossless, total.args)
    dtype = dtype_of(x)
    if dtype not in (torch.bfloat16, torch.float16) or dtype_of(residual) != dtype:
        return None
    if not (same_shape(shape_of(x), shape_of(total)) and same_shape(shape_of(residual), shape_of(total))):
        return None
    sums = tuple(user for user in total.users if cast_dtype(user) == dtype)
    if not sums:
        return None
    for operand in matcher.take(total).args:
        matcher.exact(operand)
    return UnroundedSum(x, residual, sums)


def with_residual(norm: Match) -> Match | None:
    """The norm together with the addition whose sum it reads; None when no plain addition is in front of it."""
    add = norm.inputs["x"]
    if gated := with_gated_residual(norm):
        return gated
    if norm.op.residual or add.target not in ADD or add.kwargs.get("alpha", 1) != 1:
        return None
    x, residual = add.args
    for operand in (x, residual):
        if dtype_of(operand) != dtype_of(add) or not same_shape(shape_of(operand), shape_of(add)):
            return None
    plain = _widened(norm, add, x, residual, 1.0)
    for scaled, other in ((x, residual), (residual, x)):
        if found := _times_number(scaled, add):
            return dataclasses.replace(_widened(plain, scaled, found[0], other, found[1]), smaller=plain)
    return plain


def _widened(norm: Match, node: Node, x: Node, residual: Node, multiplier: float) -> Match:
    """``norm`` with ``node`` taken in as well."""
    total = norm.inputs["x"] if not norm.op.residual else norm.outputs["sum"][0]
    return dataclasses.replace(
        norm,
        op=dataclasses.replace(norm.op, residual=True, residual_multiplier=multiplier),
        inputs=norm.inputs | {"x": x, "residual": residual},
        outputs=norm.outputs | {"sum": (total,)},
        nodes={node: None} | norm.nodes,
        views={},
        smaller=norm,
    )


def _times_number(node: Node, add: Node) -> tuple[Node, float] | None:
    """The tensor and the number of a product that only ``add`` reads."""
    if node.target not in MUL or len(node.users) != 1 or node.args[0] is node.args[1]:
        return None
    for value, factor in (node.args[:2], node.args[1::-1]):
        # A constant tensor is rounded to the product's dtype before it multiplies, a Python number is not.
        constant = None if isinstance(factor, Node) else number(factor)
        if constant is not None and isinstance(value, Node) and dtype_of(value) == dtype_of(node) == dtype_of(add):
            return (value, rounded(constant, torch.float32)) if rounded(constant, torch.float32) != 1 else None
    return None
