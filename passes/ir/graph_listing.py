# SPDX-License-Identifier: Apache-2.0
"""A graph as lines: one a node, with what it costs to run it as it stands.

The pass writes each graph down before and after, so a line holds what is cheap to tell.  Code is printed of lines when
somebody asks (``passes/ir/graph_code.py``).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from helion_compile.passes.compat import OpOverload, get_qualified_name
from helion_compile.passes.ir.dynamic_sizes import traced_size
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import VIEWS, tensor_text

__all__ = ["INPUT", "Cost", "Line", "Lister", "bytes_of", "is_view", "listing", "tensors_of"]

INPUT = "input"

_SIZES = (torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default, torch.ops.aten.sym_stride.int)
_RUNS_NOTHING = VIEWS | {*_SIZES}
_OPS = ("torch.ops.higher_order.", "torch.ops.")


@dataclass(frozen=True)
class Line:
    """One node of a graph.

    ``kernels`` and ``bytes`` are those of the graph as it stands, each operation a kernel that reads its tensors and
    writes its results, at the sizes that were traced; views cost nothing.
    """

    node: str
    result: str  # "bf16[2, 8, 256]"; empty for what is no tensor
    call: str  # "torch.ops.aten.mul.Tensor(x, rstd)", "self.constant", "return (out,)", INPUT
    location: Location
    kernels: int
    bytes: int

    @property
    def text(self) -> str:
        """ "bf16[2, 8, 256] = aten.mul.Tensor(x, rstd)"."""
        name, bracket, arguments = self.call.partition("(")
        if prefix := next(filter(name.startswith, _OPS), ""):
            name = name.removeprefix(prefix)
        elif bracket and not name.startswith("return "):
            name = name.rpartition(".")[2]
        return (f"{self.result} = " if self.result else "") + name + bracket + arguments


class Lister:
    """Writes a graph down, several times as it changes.  Of a node that is as it was, the line is the one it had."""

    def __init__(self) -> None:
        self._lines: dict[Node, tuple[Any, Any, Line]] = {}
        self._bytes: dict[Node, int] = {}

    def __call__(self, graph: Graph) -> tuple[Line, ...]:
        return tuple(map(self._line, graph.nodes))

    def _line(self, node: Node) -> Line:
        args, kwargs = node.args, node.kwargs
        known = self._lines.get(node)
        if known is not None and known[0] is args and known[1] is kwargs:
            return known[2]
        value = node.meta.get("val")
        runs = node.op == "call_function" and isinstance(value, (torch.Tensor, tuple, list)) and not is_view(node)
        moved = self._size(node) + sum(map(self._size, node.all_input_nodes)) if runs else 0
        result = tensor_text(node) if isinstance(value, torch.Tensor) else ""
        line = Line(node.name, result, _call(node, args, kwargs), Location.of(node), int(runs), moved)
        self._lines[node] = args, kwargs, line
        return line

    def _size(self, node: Node) -> int:
        found = self._bytes.get(node)
        if found is None:
            value = node.meta.get("val")
            items = value if isinstance(value, (tuple, list)) else (value,)
            found = self._bytes[node] = bytes_of([item for item in items if isinstance(item, torch.Tensor)])
        return found


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
    return Lister()(graph)


def is_view(node: Node) -> bool:
    """Whether a node runs nothing: a view, an element of a tuple, a size."""
    return node.target in _RUNS_NOTHING


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
    return sum([_count(tensor.shape) * tensor.dtype.itemsize for tensor in tensors])


def _count(shape: torch.Size) -> int:
    try:
        return _product(shape)
    except TypeError:  # a symbol has no hash
        return _product.__wrapped__(shape)


@functools.lru_cache(4096)
def _product(shape: torch.Size) -> int:
    return math.prod(traced_size(size) or 0 for size in shape)


def _call(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    if node.op == "placeholder":
        return INPUT
    if node.op == "get_attr":
        return f"self.{node.target}"
    if node.op == "output":
        return f"return {_argument(args[0])}"
    arguments, name = list(map(_argument, args)), node.target
    if name is operator.getitem:
        return f"{arguments[0]}[{arguments[1]}]"
    if node.op == "call_method":
        name = f"{arguments.pop(0)}.{name}"
    elif node.op == "call_module":
        name = f"self.{name}"
    else:
        name = _name(node.target)
    if kwargs:
        arguments += [f"{key}={_argument(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join(arguments)})"


def _argument(value: Any) -> str:
    if isinstance(value, Node):
        return value.name
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        inner = ", ".join(map(_argument, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)" if len(value) == 1 else f"({inner})"
    return _name(value) if isinstance(value, OpOverload) else repr(value)


@functools.lru_cache(4096)
def _name(target: Callable[..., Any]) -> str:
    """How code names a function: "torch.ops.aten.mul.Tensor", "operator.getitem"."""
    if isinstance(target, OpOverload):
        return f"torch.ops.{target}"
    return get_qualified_name(target).removeprefix("_") if hasattr(target, "__name__") else repr(target)
