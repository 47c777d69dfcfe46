# SPDX-License-Identifier: Apache-2.0
"""What a replacement stands for: the part of the graph as it was, kept so that both can be run and compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Graph, GraphModule, Node

from helion_compile.passes.ir.values import RESHAPES

__all__ = ["Original", "original"]


@dataclass(frozen=True)
class Original:
    """The nodes that compute some outputs of a chain from its inputs, and where both are in the rewritten graph."""

    module: GraphModule  # called with the values of `inputs`, returns those of `outputs` as a tuple
    inputs: tuple[str, ...]  # names of nodes of the rewritten graph
    outputs: tuple[str, ...]
    names: tuple[str, ...]  # what the semantic ops call the outputs: "q", "scale", "sum"


def original(
    outputs: Sequence[tuple[str, Node, Node]],
    inputs: Collection[Node],
    replaced: Mapping[Node, Node],
    within: Collection[Node],
) -> Original:
    """Copy what computes ``outputs`` from ``inputs``, in a graph in which both still stand.

    Args:
        outputs: name, old and new node of each.
        inputs: where the copy begins; it also begins at graph inputs, at nodes that ``replaced`` has, and at what the chain's
            copies share under views of their own.
        replaced: old -> new node, for all replacements in the graph.
        within: the nodes of the chain's matches, behind which the copy does not go.
    """
    ends = {old for _, old, _ in outputs}
    nodes = set(ends)
    starts: dict[Node, None] = {}
    pending = list(ends)
    while pending:
        for producer in pending.pop().all_input_nodes:
            elsewhere = producer in replaced and producer not in ends
            outside = producer not in within and producer.target not in RESHAPES
            if producer in inputs or elsewhere or outside:
                starts[producer] = None
            elif producer not in nodes:
                nodes.add(producer)
                pending.append(producer)
    graph = Graph()
    copies = {node: graph.placeholder(node.name) for node in sorted(starts)}
    for node, copy in copies.items():
        copy.meta = dict(node.meta)
    for node in sorted(nodes):
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[old] for _, old, _ in outputs))
    return Original(
        GraphModule(torch.nn.Module(), graph),
        tuple(replaced.get(node, node).name for node in sorted(starts)),
        tuple(new.name for _, _, new in outputs),
        tuple(name for name, _, _ in outputs),
    )
