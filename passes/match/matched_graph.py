"""Reading a graph: the regions whose meaning is known, and the candidates that could not be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch.fx import Graph, Node

from helion_compile.passes.account.records import Refusal
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import RESHAPES, describe, shape_of, unshaped
from helion_compile.passes.match.match import Match, dying
from helion_compile.passes.match.progress import walked
from helion_compile.passes.patterns import PATTERNS
from helion_compile.passes.patterns.aten.norm import with_residual
from helion_compile.passes.patterns.custom_ops.op_call import name_of
from helion_compile.passes.patterns.matcher import MatchFailed
from helion_compile.passes.semantics import Norm, SemanticOp

__all__ = ["MatchedGraph", "match_graph"]


@dataclass
class MatchedGraph:
    """What a graph means.  ``regions`` come in the order in which meanings feed one another, then in graph order."""

    matches: list[Match] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    producers: dict[Node, tuple[Match, str]] = field(default_factory=dict)  # output node -> its region and output name
    owners: dict[Node, Match] = field(default_factory=dict)  # any node of a region -> the region
    _together: dict[tuple[type[SemanticOp], str], dict[Any, list[Match]]] = field(default_factory=dict)

    def source(self, value: Node) -> tuple[Match, str] | None:
        """The region and output that ``value`` shows, behind views that keep rows as they are."""
        while value not in self.producers:
            if not isinstance(value, Node) or value.target not in RESHAPES:
                return None
            value = value.args[0]
        return self.producers[value]

    def beside(self, match: Match, name: str) -> list[Match]:
        """The other regions of this kind of meaning whose input ``name`` shows the same values, in graph order."""
        kind = type(match.op)
        if (kind, name) not in self._together:
            together = self._together[kind, name] = {}
            for other in self.matches:
                if isinstance(other.op, kind):
                    together.setdefault(self._shown(other.inputs[name]), []).append(other)
        return [other for other in self._together[kind, name][self._shown(match.inputs[name])] if other is not match]

    def _shown(self, value: Node) -> Any:
        """A key that is equal for nodes that show the same values, in any shape."""
        return self.source(value) or unshaped(value)


def match_graph(graph: Graph) -> MatchedGraph:
    """Read all meanings of ``graph``.  Time is linear in the number of nodes; the graph is not changed.

    Regions with one meaning and equal inputs are merged into one, with all copies of the outputs.
    """
    matched = MatchedGraph()
    anchors: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        for kind in {node.target, name_of(node)}:
            anchors.setdefault(kind, []).append(node)
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
            key = (match.op, *(_value(matched, node) for node in match.inputs.values()))
            if key in found:
                found[key].absorb(match)
            else:
                found[key] = match
        _keep(matched, pattern.NAME, list(found.values()))
    return matched


def _keep(matched: MatchedGraph, name: str, matches: list[Match]) -> None:
    """Add the regions whose interior nobody else reads."""
    sums: set[Node] = set()
    for match in matches:
        try:
            _check_interior(match)
        except MatchFailed as failed:
            matched.refusals.append(_refusal(name, match.anchor, failed))
            continue
        # One addition can feed several norms; the first norm takes it, the others read the sum.
        if isinstance(match.op, Norm) and match.inputs["x"] not in sums:
            sums.add(match.inputs["x"])
            match = with_residual(match) or match
        matched.matches.append(match)
        matched.owners.update(dict.fromkeys(match.nodes, match))
        for output, copies in match.outputs.items():
            for node in copies:
                matched.producers.setdefault(node, (match, output))


def _check_interior(match: Match) -> None:
    left = dying(match.nodes, match.cheap)
    for node in match.interior():
        if node not in left:
            continue
        for user in node.users:
            if user not in left:
                raise MatchFailed(
                    node,
                    f"{describe(node)}, an intermediate value, is also read by {_reader(user)}; without that "
                    "reader it fuses, with it it would be computed twice (a graph for training keeps such values for "
                    "backward, torch.no_grad() keeps none)",
                    match.nodes,
                )


def _reader(user: Node) -> str:
    location = Location.of(user)
    return f"{describe(user)} at {location.source}" if location.file else describe(user)


def _value(matched: MatchedGraph, node: Node) -> Any:
    """A key that is equal for nodes known to hold the same value in the same shape."""
    views = []
    while node not in matched.producers and isinstance(node, Node) and node.target in RESHAPES:
        views.append((node.target, repr(node.args[1:]), repr(node.kwargs)))
        node = node.args[0]
    match, output = matched.producers.get(node, (None, None))
    # Copies of one output may come in different shapes, so the shape is part of the key.
    return (id(match), output, str(shape_of(node)), *views) if match else (node, *views)


def _refusal(candidate: str, anchor: Node, failed: MatchFailed) -> Refusal:
    # Nodes that Inductor's own passes made have no source line.
    location = Location.of(failed.node)
    matched, missing = walked(candidate, failed.walked, anchor)
    if not location.file:
        location = Location.of(anchor)
    return Refusal(candidate, failed.reason, location, failed.node.name, matched, missing)
