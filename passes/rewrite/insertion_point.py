# SPDX-License-Identifier: Apache-2.0
"""Where a chain's replacement can stand, and why it sometimes can stand nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from torch.fx import Graph, Node

from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.compat import OpOverload
from helion_compile.passes.ir.values import VIEWS
from helion_compile.passes.match.chain import Chain

__all__ = ["InsertionPoints"]


class InsertionPoints:
    """Places for the chains of one graph.  Holds for the graph as it was given: ask before it is changed."""

    def __init__(self, graph: Graph):
        # Graphs at Inductor's post-grad hooks are functional but for writes to inputs at the end, so there are few.
        self._writes = [(node, root) for node in graph.nodes for root in _written(node)]

    def find(self, chain: Chain) -> Node | Refusal:
        """The node behind which the replacement stands: all inputs are computed by then and none has been overwritten.

        Refused where an input depends on an output, or where what the chain reads is written to in its middle.
        """
        first, last = min(chain.nodes), max(chain.nodes)
        late = [node for node in chain.inputs.values() if first < node]
        if cycle := _refuse_cycle(late, chain, first):
            return cycle
        roots = {_root(node) for node in (*chain.inputs.values(), *chain.nodes)}
        for write, root in self._writes:
            # Readers of an output may have to move behind a late input; nothing may be written on their way.
            on_the_way = any(first < write < node for node in late)
            if on_the_way or (root in roots and first < write < last):
                return chain.refuse(
                    RefusalKind.INSERTION_POINT,
                    "{write} writes to {root} between the chain's first node, {first}, and its last, {last}",
                    "without the write in between it fuses",
                    write=write,
                    root=root,
                    first=first,
                    last=last,
                )
        return max(late, default=first.prev)


def _refuse_cycle(late: list[Node], chain: Chain, first: Node) -> Refusal | None:
    outputs = {node for _, _, copies in chain.outputs() for node in copies}
    pending = list(late)
    seen = set(pending)
    while pending:
        node = pending.pop()
        for producer in node.all_input_nodes:
            if producer in outputs:
                return chain.refuse(
                    RefusalKind.INSERTION_POINT,
                    "{node}, on which an input depends, is computed from the chain's own output {output}, and one call "
                    "cannot come both before and after it",
                    "with inputs that do not depend on its outputs it fuses",
                    node=node,
                    output=producer,
                )
            if producer not in seen and first < producer:
                seen.add(producer)
                pending.append(producer)
    return None


def _written(node: Node) -> Iterator[Node]:
    """The nodes whose storage ``node`` writes to."""
    if node.op != "call_function":
        return
    target = node.target
    if isinstance(target, OpOverload):
        if target._schema.is_mutable:
            for index, argument in enumerate(target._schema.arguments):
                if argument.alias_info and argument.alias_info.is_write:
                    value = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
                    for written in value if isinstance(value, (list, tuple)) else (value,):
                        if isinstance(written, Node):
                            yield _root(written)
    elif node.is_impure():
        yield from map(_root, node.all_input_nodes)


def _root(node: Node) -> Node:
    """The node that owns the storage ``node`` looks at."""
    while node.target in VIEWS:
        node = node.args[0]
    return node
