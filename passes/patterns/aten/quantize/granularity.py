# SPDX-License-Identifier: Apache-2.0
"""What shares a scale: a row, a group of neighbouring values, or everything.

::

    x [..., K] → amax over K → scale [..., 1]                                       per token
    x [..., K] → view [..., K / group, group] → amax → scale [..., K / group, 1]    per group
    scale [..., G, 1] → expand [..., G, group] → clone → view [..., K]              per group, repeated for each value
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import RESHAPES, known_equal, lossless, same_shape, shape_of, unshaped
from helion_compile.passes.patterns.matcher import Matcher
from helion_compile.passes.semantics import Granularity

__all__ = ["Grouped", "check_one_value", "find_granularity", "find_narrow_rows", "find_repeated"]

aten = torch.ops.aten


@dataclass(frozen=True)
class Grouped:
    """``x`` is what was quantised, before a view put its groups into rows of their own."""

    x: Node
    granularity: Granularity
    group: int | None = None


def find_granularity(matcher: Matcher, x: Node, whole: bool, scale: Any, at: Node) -> Grouped:
    """What shares a scale: all of x, if ``whole``, or what ``scale`` has one number for as ``at`` reads it."""
    if whole:
        check_one_value(matcher, scale, at)
        return Grouped(x, Granularity.TENSOR)
    matcher.one_number_a_row(scale, over=x, what="the scale", at=at)
    size = (shape_of(x) or (1,))[-1]
    for source in _sources(x):
        hidden = (shape_of(source) or (1,))[-1]
        if isinstance(hidden, int) and isinstance(size, int) and hidden > size and hidden % size == 0:
            node = x
            while node is not source:
                node = matcher.take(node, cheap=True).args[0]
            return Grouped(find_narrow_rows(matcher, matcher.exact(source)), Granularity.GROUP, size)
    return Grouped(find_narrow_rows(matcher, x), Granularity.TOKEN)


def find_narrow_rows(matcher: Matcher, x: Node) -> Node:
    """The narrowest node with the rows of ``x``, behind a cast that loses nothing and views of its result."""
    source = unshaped(x)
    narrow = lossless(source)
    if source is x or narrow is source or not known_equal(shape_of(narrow)[-1], shape_of(x)[-1]):
        return x
    matcher.through_views(x)
    return matcher.exact(source)


def find_repeated(matcher: Matcher, value: Any, x: Node) -> tuple[Node, Grouped] | None:
    """The scales [..., G, 1] of groups that ``value``, in the shape of x, repeats for each value; None if it does not."""
    copy = unshaped(value)
    if not isinstance(copy, Node) or copy.target is not aten.clone.default or not same_shape(shape_of(value), shape_of(x)):
        return None
    each = copy.args[0]
    if each.target is not aten.expand.default:
        return None
    scales, (*rows, size) = each.args[0], shape_of(each)
    *tokens, groups = rows
    as_groups = same_shape(shape_of(x), (*tokens, groups * size)) and same_shape(shape_of(scales), (*rows, 1))
    if not isinstance(size, int) or not as_groups:
        return None
    matcher.through_views(value)
    for node in (copy, each):
        matcher.take(node)
    return scales, Grouped(x, Granularity.GROUP, size)


def _sources(x: Node) -> Iterator[Node]:
    """What ``x`` is a view of, the nearest first."""
    while x.target in RESHAPES:
        x = x.args[0]
        yield x


def check_one_value(matcher: Matcher, value: Any, at: Node) -> None:
    """Check that ``value`` is of one element."""
    shape = shape_of(value)
    if shape is None or not all(known_equal(size, 1) for size in shape):
        matcher.fail(
            at, RefusalKind.PATTERN, "{value} of shape {shape}", "one scale for all values", value=value, shape=shape or ()
        )
