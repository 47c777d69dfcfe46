# SPDX-License-Identifier: Apache-2.0
"""Parts of a tensor's last dimension: halves, even and odd elements, the beginning and the rest, however they are cut out."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import RESHAPES, lossless, shape_of

__all__ = ["Part", "end_of", "part_of", "written_part"]

aten = torch.ops.aten

_SPLITS = frozenset({aten.split.Tensor, aten.split_with_sizes.default})


class Part(NamedTuple):
    """Some elements of the last dimension of ``source``.

    ``spot`` is their start, stop and step, ``views`` the nodes that cut them out, the last one first.
    """

    source: Node
    spot: tuple[int, int, int]
    views: tuple[Node, ...]


def part_of(value: Any) -> Part | None:
    """Which part of which tensor ``value`` is, behind casts that lose nothing; None for no part, or one of symbolic size."""
    node, views = lossless(value), []
    while value is not node:
        views.append(value)
        value = value.args[0]
    if not isinstance(node, Node) or node.op != "call_function":
        return None
    views.append(node)
    target = node.target
    if target is aten.slice.Tensor:
        spot = _spot(node.args[0], (*node.args[1:], *(0, None, None, 1)[len(node.args) - 1 :]))
        return spot and Part(node.args[0], spot, tuple(views))
    if target is aten.select.int:
        return _of_pairs(node.args[0], node.args[1], node.args[2], views)
    if target is not operator.getitem:
        return None
    cut, index = node.args
    views.append(cut)
    if cut.target is aten.unbind.int:
        return _of_pairs(cut.args[0], cut.args[1] if len(cut.args) > 1 else 0, index, views)
    if cut.target not in _SPLITS or end_of(cut, 2, rank=len(shape_of(node))) != -1:
        return None
    sizes, width = cut.args[1], shape_of(cut.args[0])[-1]
    if isinstance(sizes, int) and isinstance(width, int):
        sizes = [min(sizes, width - start) for start in range(0, width, sizes)]
    if not isinstance(sizes, (list, tuple)) or not all(isinstance(size, int) for size in sizes):
        return None
    start = sum(sizes[:index])
    return Part(cut.args[0], (start, start + sizes[index], 1), tuple(views))


def written_part(write: Node) -> tuple[int, int, int] | None:
    """Start, stop and step of what a slice_scatter writes to the last dimension; None for another dimension."""
    names, defaults = ("dim", "start", "end", "step"), (0, None, None, 1)
    given = dict(zip(names, write.args[2:], strict=False)) | write.kwargs
    return _spot(write.args[0], tuple(given.get(name, default) for name, default in zip(names, defaults, strict=True)))


def end_of(node: Node, index: int, *, rank: int | None = None) -> int:
    """Argument ``index`` of ``node``, a dimension (0 if it is not given), counted from the end."""
    dim = node.args[index] if len(node.args) > index else node.kwargs.get("dim", 0)
    return dim if dim < 0 else dim - (rank or len(shape_of(node)))


def _spot(source: Node, arguments: tuple[Any, ...]) -> tuple[int, int, int] | None:
    dim, start, stop, step = arguments
    width, rank = shape_of(source)[-1], len(shape_of(source))
    if dim not in (-1, rank - 1) or not all(
        number is None or isinstance(number, int) for number in (width, start, stop, step)
    ):
        return None
    return slice(start, stop, step).indices(width)


def _of_pairs(view: Node, dim: int, index: int, views: list[Node]) -> Part | None:
    """Element ``index`` of the dimension of size 2 in x [..., R] seen as [..., R / 2, 2] or [..., 2, R / 2]."""
    shape = shape_of(view)
    if view.target not in RESHAPES or not isinstance(view.args[0], Node):
        return None
    source = view.args[0]
    width, index = shape_of(source)[-1], index % 2
    if not isinstance(width, int) or len(shape_of(source)) != len(shape) - 1 or shape[:-2] != shape_of(source)[:-1]:
        return None
    dim = dim if dim < 0 else dim - len(shape)
    views.append(view)
    if dim == -1 and shape[-1] == 2:
        return Part(source, (index, width, 2), tuple(views))
    if dim == -2 and shape[-2] == 2:
        return Part(source, (index * width // 2, (index + 1) * width // 2, 1), tuple(views))
    return None
