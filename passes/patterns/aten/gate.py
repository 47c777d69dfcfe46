# SPDX-License-Identifier: Apache-2.0
"""What an activation is multiplied by, and the clamps and the offset of gpt-oss.

::

    f(x) * up                                                      up [..., K]
    f(x) * (up + 1)                                                an offset
    f(x.clamp(max=limit)) * (up.clamp(-limit, limit) [+ 1])        a limit: gpt-oss, MiniMax M3

Gives ``gated``, ``limit`` and ``up_offset`` of an ``Activation``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import CASTS, dtype_of, known_equal, lossless, only_reader, rounded, same_shape, shape_of
from helion_compile.passes.patterns.aten.activation_steps import plus_number
from helion_compile.passes.patterns.matcher import CLAMP, Matcher

__all__ = ["Gate", "find_gate", "step_to_unclamped"]

aten = torch.ops.aten


@dataclass(frozen=True)
class Gate:
    """``product`` is f(x) times ``up`` + ``offset``."""

    product: Node
    up: Node
    offset: float = 0.0


def find_gate(matcher: Matcher, values: tuple[Node, ...], x: Node, limit: float | None, with_offset: bool) -> Gate | None:
    """The product of one of the equal ``values`` with a tensor of the same shape, if that is their one reader.

    With a ``limit`` the tensor has to be clamped by it, both ways.
    """
    readers = [(value, user) for value in values for user in value.users]
    if len(readers) != 1 or readers[0][1].target is not aten.mul.Tensor:
        return None
    value, product = readers[0]
    factor = matcher.other(product, value)
    if not isinstance(factor, Node) or factor is value or not same_shape(shape_of(factor), shape_of(value)):
        return None
    if dtype_of(factor) != dtype_of(value):
        return None
    up, offset = _less_offset(matcher, factor) if with_offset else (factor, 0.0)
    inner = up if limit is None else _less_clamps(matcher, lossless(up), limit)
    if inner is None or dtype_of(lossless(inner)) != dtype_of(x):
        return None
    for node in _between(factor, up, inner):
        matcher.take(node)
    return Gate(product, matcher.exact(inner), offset)


def step_to_unclamped(matcher: Matcher, value: Node) -> tuple[Node, float] | None:
    """What ``value`` clamps from above alone, and the limit; None if it is no such clamp, or is read elsewhere."""
    found = _find_bounds(matcher, value)
    if found is None or found[1] is not None or found[2] is None or any(user not in matcher.nodes for user in value.users):
        return None
    for node in _between(value, found[0]):
        matcher.take(node)
    return found[0], found[2]


def _less_offset(matcher: Matcher, factor: Node) -> tuple[Node, float]:
    """up and 1 of up + 1, which the product alone reads; the factor itself and 0 of any other."""
    found = plus_number(matcher, factor)
    if found is None or only_reader(factor) is None or not found[1] or not _alike(found[0], factor):
        return factor, 0.0
    return found[0], rounded(found[1], torch.float32)


def _less_clamps(matcher: Matcher, value: Node, limit: float) -> Node | None:
    """What is clamped to ± ``limit``; None where it is not."""
    found = _find_bounds(matcher, value)
    return found[0] if found and found[1:] == (-limit, limit) and only_reader(value) else None


def _find_bounds(matcher: Matcher, value: Node) -> tuple[Node, float | None, float | None] | None:
    """The narrowest node that ``value`` clamps, the lower and the upper bound.

    A clamp of 16 bits is one in fp32 with a cast back, which rounds the bounds alone.
    """
    node = value.args[0] if value.target in CASTS else value
    bounds: list[float | None] = [None, None]
    while isinstance(node, Node) and node.target in CLAMP and (node is value or only_reader(node)):
        found = matcher.clamp(node)
        if found is None or any(new is not None and old is not None for new, old in zip(found[1:], bounds, strict=True)):
            return None
        bounds = [old if new is None else new for new, old in zip(found[1:], bounds, strict=True)]
        node = found[0]
    source = lossless(node)
    if not isinstance(source, Node) or (value.target in CASTS and dtype_of(source) != dtype_of(value)):
        return None
    low, high = (None if bound is None else rounded(bound, dtype_of(value)) for bound in bounds)
    return None if low is high is None else (source, low, high)


def _alike(value: Node, other: Node) -> bool:
    shapes = shape_of(value) or (), shape_of(other) or ()
    return len(shapes[0]) == len(shapes[1]) and all(map(known_equal, *shapes))


def _between(*nodes: Node) -> list[Node]:
    """The nodes from the first of ``nodes`` down to the last, each read by the one before, without the last."""
    node, last = nodes[0], nodes[-1]
    found = []
    while node is not last:
        found.append(node)
        node = next(argument for argument in node.args if isinstance(argument, Node) and shape_of(argument))
    return found
