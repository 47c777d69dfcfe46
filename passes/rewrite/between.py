# SPDX-License-Identifier: Apache-2.0
"""What stands between two matches that would be a chain, one directly behind the other: nodes that move rows.

::

    norm → cat(·, another norm) → rope        a row of the one tensor becomes a row of another
    norm → view → permute → clone → quantise
    norm → constant_pad_nd → quantise

A kernel reads the rows of one tensor and writes as many, in that order.  Written in front of such a node, its result would be
copied once more; Inductor's code for what stands behind the node reads the rows where they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import CASTS, CLONES, RESHAPES, known_equal, shape_of
from helion_compile.passes.match.chain import LINKS
from helion_compile.passes.match.match import Match
from helion_compile.passes.match.matched_graph import MatchedGraph
from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.semantics import SemanticOp

__all__ = ["refuse_what_is_between"]

aten = torch.ops.aten

_JOINS = "joins its rows with others: a kernel writes one tensor, which would be copied into the joined one"
_CUTS = "takes a part of its rows: a kernel takes and writes all of them"
_PADS = "adds rows of zeros, which no row of the input becomes"
_MOVES = "puts its rows into another order: the kernel's result would be copied, where Inductor reads them in that order"
_CHANGES = "changes the rows themselves"
# What a node does to rows, by its operator.
_BETWEEN = {
    aten.cat.default: _JOINS,
    aten.slice_scatter.default: _JOINS,
    aten.slice.Tensor: _CUTS,
    aten.select.int: _CUTS,
    aten.constant_pad_nd.default: _PADS,
    aten.permute.default: _MOVES,
    aten.index.Tensor: _MOVES,
}
_PASSED = _BETWEEN.keys() | RESHAPES | CLONES | CASTS
_FAR = 64  # nodes that are looked at on the way


def refuse_what_is_between(match: Match, matched: MatchedGraph, fusions: Sequence[Fusion]) -> Refusal | None:
    """The refusal of a match that moved rows keep from being one chain with another; None where there is no other."""
    ways = [(other, way, match.op, other.op) for other, way in _find_behind(match, matched)]
    ways += [(other, way, other.op, match.op) for other, way in _find_before(match, matched)]
    for other, way, producer, consumer in ways:
        node = next((node for node in way if node.target in _BETWEEN), None)
        if node is not None and any(_has(fusion, producer, consumer) for fusion in fusions):
            return Refusal.of(
                RefusalKind.NO_CHAIN,
                match.last,
                "between it and the {other} stands {node} at {where}, which {what}",
                "one directly behind the other they fuse",
                other=other.op.name,
                node=node,
                where=Location.of(node),
                what=_BETWEEN[node.target] if _keeps_rows(node) else _CHANGES,
            )
    return None


def _find_behind(match: Match, matched: MatchedGraph) -> Iterator[tuple[Match, tuple[Node, ...]]]:
    """Matches that take an output of ``match``, with the nodes on the way."""
    for name, outputs in match.outputs.items():
        pending: list[tuple[Node, tuple[Node, ...]]] = [(node, ()) for node in outputs]
        seen: set[Node] = set()
        while pending and len(seen) < _FAR:
            node, way = pending.pop()
            for user in node.users:
                other = matched.owners.get(user)
                if other and any(node in other.shown_by(taken) for taken in _linked(match, other, name)):
                    yield other, way
                elif other is None and user not in seen and user.target in _PASSED:
                    seen.add(user)
                    pending.append((user, (*way, user)))


def _find_before(match: Match, matched: MatchedGraph) -> Iterator[tuple[Match, tuple[Node, ...]]]:
    """Matches of whose outputs ``match`` takes one, with the nodes on the way."""
    for taken, value in match.inputs.items():
        pending: list[tuple[Node, tuple[Node, ...]]] = [(value, ())]
        seen: set[Node] = set()
        while pending and len(seen) < _FAR:
            node, way = pending.pop()
            other, name = matched.producers.get(node, (None, ""))
            if other is not None:
                if taken in _linked(other, match, name):
                    yield other, way
            elif node not in seen and node.target in _PASSED:
                seen.add(node)
                pending += [(source, (*way, node)) for source in node.all_input_nodes]


def _linked(producer: Match, consumer: Match, output: str) -> list[str]:
    """The inputs of ``consumer`` that are this output of ``producer`` in a chain."""
    links = LINKS.get((type(producer.op), type(consumer.op)), {})
    return [taken for taken, given in links.items() if given == output]


def _has(fusion: Fusion, producer: SemanticOp, consumer: SemanticOp) -> bool:
    return any(isinstance(producer, a) and isinstance(consumer, b) for a, b in itertools.pairwise(fusion.chain))


def _keeps_rows(node: Node) -> bool:
    """Whether rows are what they were, wherever they are now: the last dimension is untouched."""
    if node.target is aten.permute.default:
        return node.args[1][-1] in (-1, len(node.args[1]) - 1)
    sources = node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args[:1]
    widths = [(shape_of(each) or (None,))[-1] for each in (node, *sources)]
    return all(known_equal(width, widths[0]) for width in widths)
