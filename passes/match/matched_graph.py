# SPDX-License-Identifier: Apache-2.0
"""A graph's matches, and the candidates that are none."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from torch.fx import Graph, Node

from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.compat import auto_functionalized
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import CLONES, RESHAPES, shape_of, unshaped
from helion_compile.passes.match.clones import take_clones
from helion_compile.passes.match.match import Match, find_dead_nodes
from helion_compile.passes.match.progress import match_progress
from helion_compile.passes.patterns import PATTERNS
from helion_compile.passes.patterns.aten.norm import with_residual
from helion_compile.passes.patterns.custom_ops.op_call import get_op_name
from helion_compile.passes.patterns.matcher import MatchFailed
from helion_compile.passes.semantics import Norm, Quantize, SemanticOp

__all__ = ["MatchedGraph", "match_graph"]


@dataclass
class MatchedGraph:
    """What a graph computes.  ``matches`` come in the order in which ops feed one another, then in graph order."""

    matches: list[Match] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    producers: dict[Node, tuple[Match, str]] = field(default_factory=dict)  # output node -> its match and output name
    owners: dict[Node, Match] = field(default_factory=dict)  # any node of a match -> the match
    rewritten: set[Node] = field(default_factory=set)  # outputs of the chains that were chosen so far
    _together: dict[tuple[type[SemanticOp], str], dict[Any, list[Match]]] = field(default_factory=dict)

    def find_source(self, value: Node) -> tuple[Match, str] | None:
        """The match and output that ``value`` shows, behind copies and views that keep rows as they are."""
        while value not in self.producers:
            if not isinstance(value, Node) or value.target not in RESHAPES | CLONES:
                return None
            value = value.args[0]
        return self.producers[value]

    def find_siblings(self, match: Match, name: str) -> list[Match]:
        """The other matches of this kind of op whose input ``name`` shows the same values, in graph order."""
        kind = type(match.op)
        if (kind, name) not in self._together:
            together = self._together[kind, name] = {}
            for other in self.matches:
                if isinstance(other.op, kind):
                    together.setdefault(self._shown(other.inputs[name]), []).append(other)
        return [other for other in self._together[kind, name][self._shown(match.inputs[name])] if other is not match]

    def _shown(self, value: Node) -> Any:
        """A key that is equal for nodes that show the same values, in any shape."""
        return self.find_source(value) or unshaped(value)


def match_graph(graph: Graph) -> MatchedGraph:
    """Match all patterns in ``graph``.  Time is linear in the number of nodes; the graph is not changed.

    Matches of one op with equal inputs are merged into one, with all copies of the outputs.
    """
    matched = MatchedGraph()
    anchors = _list_anchors(graph)
    for pattern in PATTERNS:
        found: dict[Any, Match] = {}
        for anchor in sorted(node for target in pattern.ANCHORS for node in anchors.get(target, ())):
            try:
                match = pattern.match_at(anchor)
            except MatchFailed as failed:
                matched.refusals.append(_refusal(pattern.NAME, anchor, failed))
                continue
            if match is None:
                continue
            key = (match.op, *(_value(matched, match.op, name, node) for name, node in match.inputs.items()))
            if key in found:
                found[key].absorb(match)
            else:
                found[key] = match
        _keep(matched, pattern.NAME, list(found.values()))
    for match in matched.matches:
        if isinstance(match.op, Quantize):
            take_clones(match, matched.owners)
            _own(matched, match)
    return matched


def _list_anchors(graph: Graph) -> dict[Any, list[Node]]:
    """The nodes by their target, and by the name of the operator that they call."""
    anchors: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        anchors.setdefault(node.target, []).append(node)
    for target, nodes in list(anchors.items()):
        # A name is that of all nodes of a target, but for the one that calls another.
        for some in [[node] for node in nodes] if target is auto_functionalized else [nodes]:
            if name := get_op_name(some[0]):
                anchors.setdefault(name, []).extend(some)
    return anchors


def _keep(matched: MatchedGraph, name: str, matches: list[Match]) -> None:
    """Add the matches whose interior nobody else reads."""
    sums: set[Node] = set()
    for match in matches:
        try:
            _check_interior(match)
        except MatchFailed as failed:
            matched.refusals.append(_refusal(name, match.anchor, failed))
            continue
        # One addition can feed several norms; the first norm takes it in, the others read the sum.
        if isinstance(match.op, Norm) and match.inputs["x"] not in sums:
            sums.add(match.inputs["x"])
            match = with_residual(match) or match
        matched.matches.append(match)
        _own(matched, match)


def _own(matched: MatchedGraph, match: Match) -> None:
    matched.owners.update(dict.fromkeys(match.nodes, match))
    for output, copies in match.outputs.items():
        for node in copies:
            matched.producers.setdefault(node, (match, output))


def _check_interior(match: Match) -> None:
    dead = find_dead_nodes(match.nodes, match.cheap)
    for node in match.interior():
        if node not in dead:
            continue
        for user in node.users:
            if user not in dead:
                location = Location.of(user)
                refusal = Refusal.of(
                    RefusalKind.READER,
                    node,
                    "{node}, an intermediate value, is also read by {reader}" + (" at {source}" if location.file else ""),
                    "without that reader it fuses, with it it would be computed twice (a graph for training keeps such values "
                    "for backward, torch.no_grad() keeps none)",
                    node=node,
                    reader=user,
                    source=location.source,
                )
                raise MatchFailed(refusal, match.nodes)


def _value(matched: MatchedGraph, op: SemanticOp, name: str, node: Node) -> Any:
    """A key that is equal for nodes known to hold the same value, in the same shape or in the same rows where these count."""
    shape = shape_of(node)
    # Each copy's results are given in its own shape, which has to be known: sizes that are dynamic may be read nowhere else.
    if shape and name in op.ROWS and all(isinstance(size, int) for size in shape):
        shape = shape[-1:]
    match, output = matched.find_source(node) or (None, None)
    return (id(match), output, str(shape)) if match else (unshaped(node), str(shape))


def _refusal(candidate: str, anchor: Node, failed: MatchFailed) -> Refusal:
    """The refusal of a candidate, with its place and its progress."""
    refusal = failed.refusal
    matched, missing = match_progress(candidate, failed.matched, anchor)
    # Nodes that Inductor's own passes made have no source line.
    location = refusal.location if refusal.location.file else Location.of(anchor)
    return dataclasses.replace(refusal, candidate=candidate, location=location, matched=matched, missing=missing)
