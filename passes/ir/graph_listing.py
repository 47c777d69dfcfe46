# SPDX-License-Identifier: Apache-2.0
"""A graph as lines: one a node, with what it costs to run it as it stands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from helion_compile.passes.ir.dynamic_sizes import traced_size
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import VIEWS, format_target, tensor_text

__all__ = ["Cost", "Line", "bytes_of", "is_view", "listing", "tensors_of"]

_SIZES = (torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default, torch.ops.aten.sym_stride.int)


@dataclass(frozen=True)
class Line:
    """One node of a graph.

    ``kernels`` and ``bytes`` are those of the graph as it stands, each operation a kernel that reads its tensors and
    writes its results, at the sizes that were traced; views cost nothing.
    """

    node: str
    text: str  # "bf16[2, 8, 256] = aten.mul.Tensor(x, rstd)"
    location: Location
    kernels: int
    bytes: int


@dataclass(frozen=True)
class Cost:
    """Kernels, and the bytes that they move."""

    kernels: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Cost:
        """What some nodes of a graph cost as they stand: each operation a kernel that reads and writes its tensors."""
        lines = list(lines)
        return cls(sum(line.kernels for line in lines), sum(line.bytes for line in lines))

    def times(self, count: int) -> Cost:
        return Cost(self.kernels * count, self.bytes * count)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.kernels + other.kernels, self.bytes + other.bytes)


def listing(graph: Graph) -> tuple[Line, ...]:
    """The nodes of ``graph`` in order."""
    return tuple(map(_line, graph.nodes))


def is_view(node: Node) -> bool:
    """Whether a node runs nothing: a view, an element of a tuple, a size."""
    return node.target in VIEWS or node.target in _SIZES


def _line(node: Node) -> Line:
    runs = node.op == "call_function" and not is_view(node) and isinstance(node.meta.get("val"), (torch.Tensor, tuple, list))
    moved = bytes_of(tensors_of([node, *node.all_input_nodes])) if runs else 0
    return Line(node.name, _text(node), Location.of(node), int(runs), moved)


def _text(node: Node) -> str:
    if node.op == "placeholder":
        return f"{tensor_text(node)} = input"
    arguments = ", ".join([*map(_argument, node.args), *(f"{name}={_argument(arg)}" for name, arg in node.kwargs.items())])
    if node.op == "output":
        return f"return {arguments}"
    result = tensor_text(node)
    return (f"{result} = " if result != "?" else "") + f"{format_target(node.target)}({arguments})"


def _argument(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_argument, value))}]"
    return str(value) if not isinstance(value, str) else repr(value)


def tensors_of(nodes: Iterable[Node]) -> Iterator[torch.Tensor]:
    """The tensors that these nodes compute, those in tuples too."""
    for node in nodes:
        value = node.meta.get("val")
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, torch.Tensor):
                yield item


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """The elements of these tensors, each read or written once; what a stride of 0 repeats counts each time.

    A size that depends on data counts as 0.
    """
    return sum(math.prod(traced_size(size) or 0 for size in tensor.shape) * tensor.element_size() for tensor in tensors)
