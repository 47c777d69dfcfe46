# SPDX-License-Identifier: Apache-2.0
"""How many kernels Inductor makes of a graph, and what they move: an estimate, since nothing is compiled for it.

Pointwise operations and reductions over the same elements that follow one another count as one kernel, which reads its inputs
once and writes what others read.  A reduction of very many elements to one number takes two.  Every other operation is a
kernel of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.fx import Graph, Node

from helion_compile.passes.ir.dynamic_sizes import traced_size
from helion_compile.passes.ir.graph_listing import Cost, bytes_of, is_view, tensors_of

__all__ = ["estimate_inductor"]

# What Inductor makes code of besides the operators that are tagged: casts, copies, and what reads by an index.
_CODE = frozenset(
    "_to_copy arange cat constant_pad_nd convert_element_type copy embedding empty fill full full_like gather index iota "
    "masked_fill ones scalar_tensor select_scatter slice_scatter zeros _softmax _log_softmax".split()
)


_ONE_STAGE = 8192  # elements that one program reduces to one number


@dataclass
class _Kernel:
    """One kernel to be: ``level`` is greater than that of every kernel that it reads."""

    level: int
    elements: int = -1  # that it goes over; -1 for an operation that Inductor does not write
    rows: int = -1  # of its reductions, once it has one
    stages: int = 1  # 2 where parts are reduced by themselves, and then their results: its readers come after that
    nodes: list[Node] = field(default_factory=list)

    def takes(self, elements: int, rows: int) -> bool:
        if self.elements < 0 or elements < 0 or self.stages > 1:
            return False
        if rows < 0:
            return elements in (self.elements, self.rows)
        return elements == self.elements and self.rows in (-1, rows)


def estimate_inductor(graph: Graph) -> Cost:
    """The estimate for ``graph``, whose nodes have their fake values."""
    made: dict[Node, _Kernel] = {}  # of each node that runs
    kernels: dict[int, _Kernel] = {}  # by identity: one of a list is found by going through it
    for node in graph.nodes:
        if node.op != "call_function" or is_view(node) or not any(True for _ in tensors_of([node])):
            continue
        elements, rows = _domain(node)
        read = {id(kernel): kernel for source in _sources(node) if (kernel := made.get(source))}
        level = max((kernel.level for kernel in read.values()), default=0)
        last = [kernel for kernel in read.values() if kernel.level == level]
        if last and all(kernel.takes(elements, rows) for kernel in last):
            kernel = last[0]
            for other in last[1:]:  # none reads another, being of one level
                kernel.nodes += other.nodes
                kernel.rows = max(kernel.rows, other.rows)
                del kernels[id(other)]
                made.update(dict.fromkeys(other.nodes, kernel))
        else:
            kernel = _Kernel(level + 1, elements)
            kernels[id(kernel)] = kernel
        kernel.nodes.append(node)
        kernel.rows = max(kernel.rows, rows)
        if rows == 1 and elements > _ONE_STAGE:
            kernel.stages = 2
        made[node] = kernel
    return Cost(sum(kernel.stages for kernel in kernels.values()), sum(_bytes(kernel, made) for kernel in kernels.values()))


def _domain(node: Node) -> tuple[int, int]:
    """The elements that an operation goes over, and the rows to which it reduces them; -1 for what there is not."""
    tags = getattr(node.target, "tags", ())
    name = str(getattr(node.target, "_opname", ""))
    if torch.Tag.reduction in tags or name in ("_softmax", "_log_softmax"):
        x, out = (max((_count(each) for each in tensors_of([n])), default=0) for n in (node.all_input_nodes[0], node))
        return x, (out if torch.Tag.reduction in tags else -1)
    if torch.Tag.pointwise in tags or name in _CODE:
        return max(map(_count, tensors_of([node]))), -1
    return -1, -1


def _sources(node: Node) -> Iterator[Node]:
    """The nodes that compute what ``node`` reads, through views."""
    for each in node.all_input_nodes:
        yield from _sources(each) if each.op == "call_function" and is_view(each) else (each,)


def _readers(node: Node) -> Iterator[Node]:
    for each in node.users:
        yield from _readers(each) if is_view(each) else (each,)


def _bytes(kernel: _Kernel, made: dict[Node, _Kernel]) -> int:
    own = set(kernel.nodes)
    read = {source for node in kernel.nodes for source in _sources(node)} - own
    written = [node for node in kernel.nodes if any(made.get(reader) is not kernel for reader in _readers(node))]
    return bytes_of(tensors_of([*read, *written]))


def _count(tensor: torch.Tensor) -> int:
    return math.prod(traced_size(size) or 0 for size in tensor.shape)
