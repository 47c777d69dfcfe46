# SPDX-License-Identifier: Apache-2.0
"""Matches that feed one another, as a fusion sees them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch.fx import Node

from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.values import CLONES, RESHAPES, VIEWS
from helion_compile.passes.match.match import Match, find_dead_nodes
from helion_compile.passes.match.matched_graph import MatchedGraph
from helion_compile.passes.semantics import Activation, ComplexRope, Concat, Matmul, Modulate, Norm, Quantize, Rope, SemanticOp

__all__ = ["Chain", "Reader", "LINKS", "find_chains"]

Op = TypeVar("Op", bound=SemanticOp)

# (producer, consumer) -> input of the consumer: output of the producer
LINKS: dict[tuple[type[SemanticOp], type[SemanticOp]], dict[str, str]] = {
    (Norm, Quantize): {"x": "out"},
    (Norm, Modulate): {"x": "out"},
    (Modulate, Quantize): {"x": "out"},
    (Activation, Quantize): {"x": "out"},
    (Activation, Concat): {"back": "out"},
    (Concat, Quantize): {"x": "out"},
    (Norm, Rope): {"x": "out"},
    (Norm, ComplexRope): {"x": "out"},
    (Quantize, Matmul): {"a": "q", "a_scale": "scale"},
}


@dataclass(frozen=True)
class Reader:
    """Who reads an output of a chain, behind views."""

    node: Node  # the reader itself, no view
    views: tuple[Node, ...]  # from the output to the reader
    match: Match | None  # of which the reader is part


class Chain:
    """Matches one behind the other, found in a graph; what ``Fusion.check`` and ``Fusion.build`` are given.

    ``chain[Norm]`` is the match of that op.  ``inputs`` holds the nodes that come from outside, by the names that the ops
    give them: a chain of Norm and Quantize has "x", "weight" and "residual", and no "x" of Quantize.
    """

    def __init__(self, matches: Sequence[Match], matched: MatchedGraph):
        self.matches = tuple(matches)
        self._matched = matched
        self.inputs: dict[str, Node] = {}
        nodes: dict[Node, None] = {}
        cheap: set[Node] = set()
        producer: Match | None = None
        for match in self.matches:
            inside = LINKS[type(producer.op), type(match.op)] if producer else {}
            for name, node in match.inputs.items():
                if producer and name in inside:
                    for shown in match.shown_by(name):
                        between = _find_views_between(shown, producer.outputs[inside[name]])
                        nodes |= between
                        cheap |= between.keys()
                elif self.inputs.setdefault(name, node) is not node:
                    raise ValueError(f"two inputs of {self} are called {name!r}; give one another name in its semantic op")
            nodes |= match.nodes
            cheap |= match.cheap
            producer = match
        self.nodes = find_dead_nodes(nodes, cheap)

    def refuse(self, kind: RefusalKind, found: str, remedy: str, /, **details: Any) -> Refusal:
        """The refusal of this chain, as a fusion's check returns it; see :meth:`Refusal.of`."""
        return Refusal.of(kind, self.anchor, found, remedy, **details)

    def __getitem__(self, op: type[Op]) -> Match[Op]:
        if not isinstance(op, type):
            raise TypeError(f"a chain is asked for a semantic op, as in chain[Norm], not for {op!r:.80}")
        for match in self.matches:
            if isinstance(match.op, op):
                return match
        raise KeyError(f"no {op.__name__} in {self}")

    def __str__(self) -> str:
        return " -> ".join(str(match.op) for match in self.matches)

    @property
    def anchor(self) -> Node:
        """The last step's output: where a report says that the chain is."""
        return self.matches[-1].last

    def outputs(self) -> Iterator[tuple[type[SemanticOp], str, tuple[Node, ...]]]:
        """Every output of every match, with all its copies in the graph."""
        for match in self.matches:
            for name, copies in match.outputs.items():
                yield type(match.op), name, copies

    def copies_read(self, op: type[SemanticOp], output: str) -> tuple[Node, ...]:
        """The copies of an output that something outside the chain reads; empty when the chain alone needs it."""
        copies = self[op].outputs.get(output, ())
        return tuple(node for node in copies if any(user not in self.nodes for user in node.users))

    def is_rewritten(self, node: Node) -> bool:
        """Whether ``node`` is a result of a chain that becomes a kernel, as far as was decided, or of a matmul."""
        match, _ = self._matched.producers.get(node, (None, ""))
        return node in self._matched.rewritten or (match is not None and isinstance(match.op, Matmul))

    def find_siblings(self, op: type[SemanticOp], name: str) -> list[Match]:
        """Other matches of this kind of op that are given the same values as ``name``: q, k and v, of one norm."""
        return self._matched.find_siblings(self[op], name)

    def readers(self, op: type[SemanticOp], output: str) -> list[Reader]:
        """Who reads an output outside the chain, seen through reshapes, permutations and other views."""
        found: list[Reader] = []
        pending: list[tuple[Node, tuple[Node, ...]]] = [(node, ()) for node in self[op].outputs.get(output, ())]
        while pending:
            node, views = pending.pop()
            for user in node.users:
                if user in self.nodes:
                    continue
                if user.target in VIEWS:
                    pending.append((user, (*views, user)))
                else:
                    found.append(Reader(user, views, self._matched.owners.get(user)))
        return found


def find_chains(matched: MatchedGraph, ops: Sequence[type[SemanticOp]], used: Collection[Node]) -> Iterator[list[Chain]]:
    """Chains of ``ops`` none of whose matches has its anchor in ``used``.

    Each comes in several sizes, the one that takes in most first.
    """
    for match in matched.matches:
        if not isinstance(match.op, ops[-1]):
            continue
        chain: list[Match] = [match]
        for op in reversed(ops[:-1]):
            producer = _find_producer(matched, chain[0], op)
            if producer is None:
                chain = []
                break
            chain.insert(0, producer)
        # An operator of two semantic ops has the value between them in no tensor, so the second cannot be taken alone.
        if chain and any(isinstance(node.meta.get("val"), tuple) for node in chain[0].inputs.values()):
            continue
        if chain and not any(link.anchor in used for link in chain):
            choices = ([match, *_list_smaller(match)] for match in chain)
            yield [Chain(matches, matched) for matches in itertools.product(*choices)]


def _find_producer(matched: MatchedGraph, consumer: Match, op: type[SemanticOp]) -> Match | None:
    """The match of ``op`` that computes all linked inputs of ``consumer``."""
    sources = set()
    for name, output in LINKS.get((op, type(consumer.op)), {}).items():
        match, found = matched.find_source(consumer.inputs[name]) or (None, None)
        sources.add(match if found == output else None)
    producer = sources.pop() if len(sources) == 1 else None
    return producer if producer and isinstance(producer.op, op) else None


def _list_smaller(match: Match) -> Iterator[Match]:
    while match.smaller:
        match = match.smaller
        yield match


def _find_views_between(node: Node, outputs: tuple[Node, ...]) -> dict[Node, None]:
    views: dict[Node, None] = {}
    while node not in outputs and node.target in RESHAPES | CLONES:
        views[node] = None
        node = node.args[0]
    return views
