# SPDX-License-Identifier: Apache-2.0
"""Rows of which one part is computed by an activation, as parallel blocks of diffusion transformers write them.

::

    torch.cat([attention, gelu(mlp)], dim=-1)          <- anchor cat     attention [..., F], mlp [..., B]
    torch.cat([torch.cat([a[:, :T], a[:, T:]], 1), gelu(mlp)], 2)        HunyuanVideo, of attention a

Others are no match: whatever is concatenated elsewhere, halves of an embedding for one, belongs to other ops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import CASTS, CLONES, RESHAPES, dtype_of, same_shape, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.aten import activation
from helion_compile.passes.patterns.matcher import DIV, MUL, Matcher
from helion_compile.passes.semantics import Concat

__all__ = ["ANCHORS", "NAME", "match_at"]

aten = torch.ops.aten

NAME = "concat"
ANCHORS = frozenset({aten.cat.default})
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
_IN_AN_ACTIVATION = MUL | DIV | CASTS | RESHAPES | CLONES | {aten.add.Tensor, aten.pow.Tensor_Scalar}
_STEPS_OF_AN_ACTIVATION = 5


def match_at(anchor: Node) -> Match | None:
    """The concatenation; None where it is no two rows, the second of which is an activation's."""
    parts, dim = anchor.args[0], anchor.args[1] if len(anchor.args) > 1 else anchor.kwargs.get("dim", 0)
    shape = shape_of(anchor)
    if not shape or dim not in (-1, len(shape) - 1) or len(parts) != 2 or dtype_of(anchor) not in _FLOATS:
        return None
    front, back = parts
    if not same_shape(shape_of(front)[:-1], shape_of(back)[:-1]) or dtype_of(front) != dtype_of(back):
        return None
    if not _is_of_an_activation(back):
        return None
    matcher = Matcher(anchor)
    front = _step_to_whole(matcher, front)
    return matcher.match(Concat(dtype=dtype_of(anchor)), {"back": back, "front": front}, {"out": anchor})


def _step_to_whole(matcher: Matcher, part: Node) -> Node:
    """The tensor of which ``part`` joins all slices, in order; or ``part`` itself."""
    joined = part.args[0] if part.target is aten.cat.default else ()
    slices = [piece for piece in joined if piece.target is aten.slice.Tensor]
    if not slices or len(slices) < len(joined):
        return part
    whole = slices[0].args[0]
    dim = (part.args[1] if len(part.args) > 1 else 0) % len(shape_of(part))
    size, end = shape_of(whole)[dim], 0
    for piece in slices:
        start, stop, step = _range_of(piece, dim, size) or (-1, 0, 0)
        if piece.args[0] is not whole or start != end or step != 1:
            return part
        end = stop
    if end != size:
        return part
    for node in (part, *slices):
        matcher.take(node, cheap=True)
    return whole


def _range_of(piece: Node, dim: int, size: Any) -> tuple[int, int, int] | None:
    """Which of the ``size`` elements along ``dim`` a slice takes: from, up to, every how many; None where that is unknown."""
    given: list[Any] = [*piece.args[1:]]
    given += (0, None, None, 1)[len(given) :]
    along, start, stop, step = given
    numbers = [number for number in (size, along, start, stop, step) if number is not None]
    if not all(isinstance(number, int) for number in numbers) or along % len(shape_of(piece)) != dim:
        return None
    return slice(start, stop, step).indices(size)


def _is_of_an_activation(value: Node) -> bool:
    """Whether one of an activation's functions is among what ``value`` was computed from in the few steps of one."""
    pending = [(value, _STEPS_OF_AN_ACTIVATION)]
    while pending:
        node, steps = pending.pop()
        if node.target in activation.ANCHORS:
            return True
        if steps and node.target in _IN_AN_ACTIVATION:
            pending += [(argument, steps - 1) for argument in node.all_input_nodes]
    return False
