# SPDX-License-Identifier: Apache-2.0
"""Where a device has no kernel: a ``helion_kernel`` node becomes the operations of its reference.

    %out = helion_kernel(%x, %weight, …, kernel="helion_compile::norm_quant")     on a CPU
    ->
    %float = prims.convert_element_type(%x, fp32), %square = aten.mul(%float, %float), %mean = aten.mean(%square, [-1]), …

Inductor then makes code of them as of a model's own operations, and fuses them with their neighbours.  A call of the reference
would run each of its operations alone, from memory to memory.

A result that several nodes read, as q, k and v read one quantised norm, goes through ``materialize``.  Without it Inductor
computes the result in the buffer of each product that reads it.  Where it fuses all readers it leaves the memory out again.

The reference is traced on the node's fake arguments, without writes: for an argument that it writes to, the node gives the new
value, which the graph copies back.  A node stays a call, and runs the reference, where this would not be the same:

- its kernel has a parameter ``exact`` that is true, which promises eager's bits;
- the reference cannot be traced, draws random numbers, reads values (``.item()``), holds tensors of its own, or calls what
  writes to memory although its schema should not say so;
- the results are not laid out as the node's are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from helion_compile.compat import CustomGraphPass
from helion_compile.definitions import registry
from helion_compile.graph.hop import helion_kernel
from helion_compile.graph.reference_graph import CannotInline, check_inlinable, keeps_bits, trace_reference
from helion_compile.passes.ir.values import VIEWS
from helion_compile.runtime import reference

if TYPE_CHECKING:
    pass

__all__ = ["InlineReferences", "inline_references", "materialize"]

log = logging.getLogger(__name__)

_KEPT_META = ("stack_trace", "nn_module_stack", "custom")  # "custom": the kernel and its place, in printed graphs


def materialize(value: Any) -> Any:
    """In Inductor's lowering: ``value`` in memory, once for all that read it; elsewhere ``value``."""
    if not isinstance(value, torch.Tensor):
        value.realize()
    return value


materialize._inductor_lowering_function = True  # type: ignore[attr-defined]  # Inductor calls it with its own values


class InlineReferences(CustomGraphPass):
    """:func:`inline_references` as Inductor takes passes; it stands behind the pass that makes the nodes."""

    def __call__(self, graph: Graph) -> None:
        inline_references(graph)

    def uuid(self) -> str:
        return "inline_references"  # the fusion pass before it names the sources of both packages


def inline_references(graph: Graph) -> int:
    """Inline the reference of each kernel that the device does not have; how many nodes that were."""
    nodes = list(graph.find_nodes(op="call_function", target=helion_kernel))
    count = 0
    while nodes:
        node = nodes.pop()
        try:
            inner = _inline(node)
        except Exception as error:  # a call runs the reference too
            log.debug("%s stays a call of its reference: %s: %s", node.name, type(error).__name__, error)
            continue
        nodes += [each for each in inner if each.target is helion_kernel]  # a reference may call kernels
        count += 1
    return count


def _inline(node: Node) -> list[Node]:
    """Put the operations in the place of ``node``; the new nodes."""
    kernel = registry.find_kernel(node.kwargs["kernel"])
    examples = map_arg(node.args, lambda each: each.meta["val"])
    if not reference.lacks_kernel(examples):
        raise CannotInline("its device has the kernel")
    if keeps_bits(kernel, node.args):
        raise CannotInline("it keeps eager's bits")
    given = [argument for argument in node.args if isinstance(argument, Node)]
    traced = trace_reference(kernel, node.args, given)
    check_inlinable(traced.graph, node)
    results, nodes = _copy(traced.graph, node, given)
    if isinstance(node.meta["val"], (tuple, list)):
        read = {user: results[user.args[1]] for user in node.users}  # getitem nodes, as was checked
    else:
        read = {node: results[0]}
    for old, new in read.items():
        if new not in given and _count_readers(old) > 1:
            with node.graph.inserting_before(node):
                meta, new = new.meta, node.graph.call_function(materialize, (new,))
            new.meta = dict(meta)
        old.replace_all_uses_with(new)
        if old is not node:
            node.graph.erase_node(old)
    node.graph.erase_node(node)
    return nodes


def _count_readers(node: Node) -> int:
    """How many nodes read the values of ``node``; views of it only pass them on."""
    return sum(_count_readers(user) if user.target in VIEWS else 1 for user in node.users)


def _copy(graph: Graph, node: Node, given: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Copies of the nodes of ``graph`` before ``node``: those of its results, and all."""
    copies = dict(zip(graph.find_nodes(op="placeholder"), given, strict=True))
    made = []
    with node.graph.inserting_before(node):
        for each in graph.nodes:
            if each.op == "call_function":
                new = node.graph.node_copy(each, copies.__getitem__)
                new.meta = {"val": each.meta["val"], **{key: node.meta[key] for key in _KEPT_META if key in node.meta}}
                copies[each] = new
                made.append(new)
    return [copies[result] for result in graph.output_node().args[0]], made
