# SPDX-License-Identifier: Apache-2.0
"""What a scale is taken from: the largest magnitude, or the range.

::

    x → abs → amax                                             magnitude; also max
    maximum(neg(amin(x)), amax(x))                             magnitude without abs
    sub(clamp_min(amax(x), 0), clamp_max(amin(x), 0))          range, of a quantiser with a zero point
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import (
    cast_dtype,
    dtype_of,
    shape_of,
)
from helion_compile.passes.patterns.matcher import ABS, SUB, Matcher

__all__ = ["EXTREMES", "Range", "match_range"]

aten = torch.ops.aten

_REDUCTIONS = {aten.amax.default: "max", aten.amin.default: "min", aten.max.default: "max", aten.min.default: "min"}
EXTREMES = frozenset({*_REDUCTIONS, operator.getitem, aten.maximum.default})
_NEG = frozenset({aten.neg.default})


@dataclass(frozen=True)
class Range:
    """``x`` as the reduction read it; ``low`` is min(x, 0) where the scale is of a range, None where of a magnitude."""

    x: Node
    whole: bool  # reduced over everything, not over the last dimension
    low: Node | None = None
    ends: bool = False  # the magnitude is that of the smallest and the largest value
    casts: tuple[torch.dtype, ...] = ()  # of the magnitude, before it is reduced


def match_range(matcher: Matcher, node: Node) -> Range:
    """What ``node`` is the largest magnitude or the range of."""
    if node.target in SUB:
        return _difference(matcher, node)
    if node.target is aten.maximum.default:
        return _largest_of_two(matcher, node)
    x, whole, kind = _reduction(matcher, node)
    if kind != "max":
        matcher.fail(node, RefusalKind.PATTERN, "{node}", "max |x|", node=node)
    casts = []
    while cast_dtype(x) is not None:
        casts.append(dtype_of(x))
        x = matcher.take(x, cheap=True).args[0]
    magnitude = matcher.to(x, ABS, "the magnitude of x")
    matcher.cheap.add(magnitude)
    return Range(magnitude.args[0], whole, casts=tuple(casts))


def _reduction(matcher: Matcher, node: Node) -> tuple[Node, bool, str]:
    """What is reduced, whether over everything, and whether to "max" or "min"."""
    if node.target is operator.getitem:
        largest = node.args[0]
        if largest.target not in (aten.max.dim, aten.min.dim) or node.args[1] != 0:
            matcher.fail(node, RefusalKind.PATTERN, "{largest} in it", "the scale, max |x| / qmax", largest=largest)
        matcher.take(node)
        node, kind = largest, "max" if largest.target is aten.max.dim else "min"
    elif node.target in _REDUCTIONS:
        kind = _REDUCTIONS[node.target]
    else:
        matcher.fail(node, RefusalKind.PATTERN, "{node}", "the largest value of x", node=node)
    matcher.take(node)
    dims = node.args[1] if len(node.args) > 1 else []
    rank = len(shape_of(node.args[0]) or ())
    whole = rank > 1 and (not dims and dims != 0 or (not isinstance(dims, int) and len(dims) == rank))
    if not whole:
        matcher.over_last_dim(node, dims, "the largest magnitude")
    return node.args[0], whole, kind


def _largest_of_two(matcher: Matcher, node: Node) -> Range:
    """max(-min(x), max(x)), the largest magnitude without abs; either may be bounded by 0 first."""
    found = {}
    for operand in matcher.take(node).args:
        value = matcher.through_views(operand)
        if isinstance(value, Node) and value.target in _NEG | ABS:
            negated = value.target in _NEG
            reduced = _bounded_by_zero(matcher, matcher.take(value).args[0])
            x, whole, kind = _reduction(matcher, reduced)
            if negated and kind != "min":
                matcher.fail(value, RefusalKind.PATTERN, "{value} of a maximum", "max(-min(x), max(x))", value=value)
        else:
            x, whole, kind = _reduction(matcher, _bounded_by_zero(matcher, value))
            if kind != "max":
                matcher.fail(node, RefusalKind.PATTERN, "{node} of a minimum", "max(-min(x), max(x))", node=node)
        found[kind] = (x, whole)
    if set(found) != {"min", "max"} or found["min"] != found["max"]:
        matcher.fail(
            node, RefusalKind.PATTERN, "{node} of {operands}", "the largest magnitude of one x", node=node, operands=node.args
        )
    return Range(*found["max"], ends=True)


def _difference(matcher: Matcher, node: Node) -> Range:
    """max(x, 0) - min(x, 0)."""
    if node.kwargs.get("alpha", 1) != 1:
        matcher.fail(
            node, RefusalKind.PATTERN, "a subtraction with alpha={alpha}", "max(x, 0) - min(x, 0)", alpha=node.kwargs["alpha"]
        )
    ends = []
    for operand, wanted in zip(matcher.take(node).args, ("max", "min"), strict=True):
        end = matcher.through_views(operand)
        reduced = _bounded_by_zero(matcher, end)
        if reduced is end:
            matcher.fail(
                node,
                RefusalKind.FUNCTION,
                "the range of x is taken without 0 in it, as max(x) - min(x)",
                "max(x, 0) - min(x, 0), which keeps 0 exact, fuses",
            )
        x, whole, kind = _reduction(matcher, reduced)
        if kind != wanted:
            matcher.fail(
                node, RefusalKind.PATTERN, "{node} of {operands}", "max(x, 0) - min(x, 0)", node=node, operands=node.args
            )
        ends.append((end, x, whole))
    (_, x, whole), (low, other, other_whole) = ends
    if x is not other or whole != other_whole:
        matcher.fail(node, RefusalKind.PATTERN, "{node} of {x} and {other}", "the range of one x", node=node, x=x, other=other)
    return Range(x, whole, low)


def _bounded_by_zero(matcher: Matcher, value: Any) -> Node:
    """v of max(v, 0) or min(v, 0), by which the sign is known; v itself where there is no bound."""
    node = matcher.through_views(value)
    if not isinstance(node, Node):
        matcher.fail(matcher.anchor, RefusalKind.PATTERN, "{node}", "the largest value of x", node=node)
    found = matcher.clamp(node)
    if found is None or {found[1], found[2]} != {None, 0.0}:
        return node
    value, low, _ = found
    inner = matcher.through_views(value)
    kind = "max" if low is not None else "min"
    if isinstance(inner, Node) and _kind(inner) == kind:
        matcher.take(node)
        return inner
    return node


def _kind(node: Node) -> str | None:
    if node.target is operator.getitem:
        return {aten.max.dim: "max", aten.min.dim: "min"}.get(node.args[0].target)
    return _REDUCTIONS.get(node.target)
