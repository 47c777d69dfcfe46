"""Reading a graph: the regions whose meaning is known, and the candidates that could not be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch.fx import Graph, Node

from helion_compile.passes.account.records import Refusal
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import RESHAPES, describe, shape_of, unshaped
from helion_compile.passes.match.progress import walked
from helion_compile.passes.match.region import Region, dying
from helion_compile.passes.patterns import SPELLINGS
from helion_compile.passes.patterns.aten.norm import with_residual
from helion_compile.passes.patterns.custom_ops.op_call import name_of
from helion_compile.passes.patterns.matcher import Unread
from helion_compile.passes.semantics import Meaning, Norm

__all__ = ["Reading", "read"]


@dataclass
class Reading:
    """What a graph means.  ``regions`` come in the order in which meanings feed one another, then in graph order."""

    regions: list[Region] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    producers: dict[Node, tuple[Region, str]] = field(default_factory=dict)  # output node -> its region and output name
    owners: dict[Node, Region] = field(default_factory=dict)  # any node of a region -> the region
    _together: dict[tuple[type[Meaning], str], dict[Any, list[Region]]] = field(default_factory=dict)

    def source(self, value: Node) -> tuple[Region, str] | None:
        """The region and output that ``value`` shows, behind views that keep rows as they are."""
        while value not in self.producers:
            if not isinstance(value, Node) or value.target not in RESHAPES:
                return None
            value = value.args[0]
        return self.producers[value]

    def beside(self, region: Region, name: str) -> list[Region]:
        """The other regions of this kind of meaning whose input ``name`` shows the same values, in graph order."""
        kind = type(region.meaning)
        if (kind, name) not in self._together:
            together = self._together[kind, name] = {}
            for other in self.regions:
                if isinstance(other.meaning, kind):
                    together.setdefault(self._shown(other.inputs[name]), []).append(other)
        return [other for other in self._together[kind, name][self._shown(region.inputs[name])] if other is not region]

    def _shown(self, value: Node) -> Any:
        """A key that is equal for nodes that show the same values, in any shape."""
        return self.source(value) or unshaped(value)


def read(graph: Graph) -> Reading:
    """Read all meanings of ``graph``.  Time is linear in the number of nodes; the graph is not changed.

    Regions with one meaning and equal inputs are merged into one, with all copies of the outputs.
    """
    reading = Reading()
    anchors: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        for kind in {node.target, name_of(node)}:
            anchors.setdefault(kind, []).append(node)
    for spelling in SPELLINGS:
        found: dict[Any, Region] = {}
        for anchor in sorted(node for target in spelling.ANCHORS for node in anchors.get(target, ())):
            try:
                region = spelling.read(anchor)
            except Unread as unread:
                reading.refusals.append(_refusal(spelling.NAME, anchor, unread))
                continue
            if region is None:
                continue
            key = (region.meaning, *(_value(reading, node) for node in region.inputs.values()))
            if key in found:
                found[key].absorb(region)
            else:
                found[key] = region
        _keep(reading, spelling.NAME, list(found.values()))
    return reading


def _keep(reading: Reading, name: str, regions: list[Region]) -> None:
    """Add the regions whose interior nobody else reads."""
    sums: set[Node] = set()
    for region in regions:
        try:
            _check_interior(region)
        except Unread as unread:
            reading.refusals.append(_refusal(name, region.anchor, unread))
            continue
        # One addition can feed several norms; the first norm takes it, the others read the sum.
        if isinstance(region.meaning, Norm) and region.inputs["x"] not in sums:
            sums.add(region.inputs["x"])
            region = with_residual(region) or region
        reading.regions.append(region)
        reading.owners.update(dict.fromkeys(region.nodes, region))
        for output, copies in region.outputs.items():
            for node in copies:
                reading.producers.setdefault(node, (region, output))


def _check_interior(region: Region) -> None:
    left = dying(region.nodes, region.cheap)
    for node in region.interior():
        if node not in left:
            continue
        for user in node.users:
            if user not in left:
                raise Unread(
                    node,
                    f"{describe(node)}, an intermediate value, is also read by {_reader(user)}; without that "
                    "reader it fuses, with it it would be computed twice (a graph for training keeps such values for "
                    "backward, torch.no_grad() keeps none)",
                    region.nodes,
                )


def _reader(user: Node) -> str:
    location = Location.of(user)
    return f"{describe(user)} at {location.source}" if location.file else describe(user)


def _value(reading: Reading, node: Node) -> Any:
    """A key that is equal for nodes known to hold the same value in the same shape."""
    views = []
    while node not in reading.producers and isinstance(node, Node) and node.target in RESHAPES:
        views.append((node.target, repr(node.args[1:]), repr(node.kwargs)))
        node = node.args[0]
    region, output = reading.producers.get(node, (None, None))
    # Copies of one output may come in different shapes, so the shape is part of the key.
    return (id(region), output, str(shape_of(node)), *views) if region else (node, *views)


def _refusal(candidate: str, anchor: Node, unread: Unread) -> Refusal:
    # Nodes that Inductor's own passes made have no source line.
    location = Location.of(unread.node)
    matched, missing = walked(candidate, unread.walked, anchor)
    if not location.file:
        location = Location.of(anchor)
    return Refusal(candidate, unread.reason, location, unread.node.name, matched, missing)
