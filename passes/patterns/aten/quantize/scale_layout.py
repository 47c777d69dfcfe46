# SPDX-License-Identifier: Apache-2.0
"""How the scales of groups lie in memory, read from the last form that the graph gives them.

::

    scale.t().contiguous().t()                                            column-major, strides (1, M)
    F.pad(scale, (0, 0, 0, -M % 4)).t().contiguous().t()[:M]              TMA-aligned, strides (1, M rounded up)
    aligned = torch.empty(groups, M rounded up).t(); aligned[:M] = scale; aligned[:M]

As a graph, the first is ``scale → permute → clone → permute``.  Gives ``scale_layout`` of a ``Quantize``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import known_equal, number, only_reader, shape_of
from helion_compile.passes.patterns.aten.quantize.granularity import Grouped
from helion_compile.passes.patterns.matcher import Matcher
from helion_compile.passes.semantics import Granularity, ScaleLayout

__all__ = ["match_layout"]

aten = torch.ops.aten

_ALIGNMENT = 4  # fp32 numbers in 16 bytes, which a tensor memory access wants between columns


def match_layout(matcher: Matcher, scale: Node, extent: Grouped) -> tuple[ScaleLayout, tuple[Node, ...]]:
    """The layout of the scales, and the nodes that hold them in it.

    Column-major only if all who read the scales outside the match read them so; a second form of them stays outside.
    """
    plain = ScaleLayout.ROW_MAJOR, matcher.copies(scale)
    if extent.granularity is not Granularity.GROUP or len(plain[1]) > 1:
        return plain
    readers = [reader for reader in matcher.readers(scale) if reader not in matcher.nodes]
    if len(readers) != 1:
        return plain
    found = _transposed(readers[0]) or _padded(readers[0]) or _filled(readers[0])
    if found is None:
        return plain
    out, steps = found
    layout = _layout_of(out)
    if layout is None:
        return plain
    for operand in readers[0].all_input_nodes:
        matcher.through_views(operand)
    for step in steps:
        for node in (empty for operand in step.all_input_nodes for empty in _unwritten(operand)):
            matcher.take(node, cheap=True)
        matcher.take(step)
    matcher.take(scale)
    return layout, (out,)


def _layout_of(out: Node) -> ScaleLayout | None:
    """What the strides of [M, groups] say."""
    shape, strides = shape_of(out), out.meta["val"].stride()
    if len(shape) != 2 or not known_equal(strides[0], 1):
        return None
    rows = shape[0]
    aligned = (rows + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
    if known_equal(strides[1], aligned) and not known_equal(rows, aligned):
        return ScaleLayout.TMA_ALIGNED
    if known_equal(strides[1], rows):
        return ScaleLayout.COLUMN_MAJOR
    return None


def _swaps(node: Any) -> bool:
    """Whether a node transposes a matrix."""
    if not isinstance(node, Node) or len(shape_of(node) or ()) != 2:
        return False
    if node.target is aten.permute.default:
        return [dim % 2 for dim in node.args[1]] == [1, 0]
    return node.target is aten.t.default or (node.target is aten.transpose.int and node.args[1] % 2 != node.args[2] % 2)


def _transposed(reader: Node) -> tuple[Node, list[Node]] | None:
    """scale.t().contiguous().t()"""
    steps = [reader]
    for expected in (lambda node: node.target is aten.clone.default, _swaps):
        following = only_reader(steps[-1])
        if following is None or not expected(following):
            return None
        steps.append(following)
    return (steps[-1], steps) if _swaps(reader) and _contiguous(steps[1]) else None


def _padded(reader: Node) -> tuple[Node, list[Node]] | None:
    """F.pad(scale, (0, 0, 0, n)).t().contiguous().t()[:M]"""
    if reader.target is not aten.constant_pad_nd.default or len(shape_of(reader)) != 2:
        return None
    padding, first = list(reader.args[1]), only_reader(reader)
    if len(padding) != 4 or any(number(n) != 0 for n in padding[:3]) or first is None:
        return None
    inner = _transposed(first)
    cut = only_reader(inner[0]) if inner else None
    if inner is None or cut is None or not _first_rows(cut, shape_of(reader.args[0])[0]):
        return None
    return cut, [reader, *inner[1], cut]


def _filled(reader: Node) -> tuple[Node, list[Node]] | None:
    """aligned[:M] = scale; aligned[:M], where nothing else of `aligned` is read."""
    scatter = only_reader(reader)
    if reader.target is not aten.copy.default or scatter is None or scatter.target is not aten.slice_scatter.default:
        return None
    rows = shape_of(reader)[0]
    cut = only_reader(scatter)
    if len(shape_of(scatter)) != 2 or cut is None or not _first_rows(cut, rows) or not _first_rows(reader.args[0], rows):
        return None
    base, target = scatter.args[0], reader.args[0].args[0]
    if scatter.args[1] is not reader or not _first_rows(scatter, rows, operands=2):
        return None
    return (cut, [reader, scatter, cut]) if _unwritten(base) and _unwritten(target) else None


def _first_rows(node: Node, rows: Any, operands: int = 1) -> bool:
    """Whether a slice, or a slice_scatter of two operands, is about the first ``rows`` rows."""
    if operands == 1 and node.target is not aten.slice.Tensor:
        return False
    given = list(node.args[operands:])
    dim, start, end, step = given + [0, None, None, 1][len(given) :]
    end = end.meta["val"] if isinstance(end, Node) else end
    return dim == 0 and start in (0, None) and step == 1 and end is not None and known_equal(end, rows)


def _contiguous(clone: Node) -> bool:
    return clone.kwargs.get("memory_format") is torch.contiguous_format


def _unwritten(node: Any) -> list[Node]:
    """The nodes from a view of memory without contents to the one that allocates it; none for other nodes."""
    nodes = [node]
    while nodes[-1].target is aten.slice.Tensor or _swaps(nodes[-1]):
        nodes.append(nodes[-1].args[0])
    return nodes if nodes[-1].target is aten.empty.memory_format else []
