"""Why a stretch whose meaning is known became part of no site."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import VIEWS, describe
from helion_compile.passes.match.match_graph import Reading
from helion_compile.passes.match.region import Region
from helion_compile.passes.rewrite.fusion import Fusion

__all__ = ["idle_reason"]

_SHOWN = 2  # readers that a sentence names


def idle_reason(region: Region, reading: Reading, fusions: Sequence[Fusion], refused: Sequence[str]) -> str:
    """A sentence; ``refused`` are the names of the fusions that had the region in a chain and did not take it."""
    name = type(region.meaning).__name__.lower()
    if refused:
        return f"refused by {', '.join(dict.fromkeys(refused))}, see there"
    chains = [fusion.chain for fusion in fusions if any(isinstance(region.meaning, each) for each in fusion.chain)]
    if not chains:
        return f"no fusion in use takes a {name}"
    takes = " or ".join(dict.fromkeys(" -> ".join(each.__name__.lower() for each in chain) for chain in chains))
    return f"the fusions in use take {takes}; here the result is read by {_readers(region, reading)}"


def _readers(region: Region, reading: Reading) -> str:
    readers: dict[str, None] = {}
    pending = [node for copies in region.outputs.values() for node in copies]
    seen: set[Node] = set(region.nodes)
    for node in pending:
        for user in node.users:
            if user in seen:
                continue
            seen.add(user)
            if user.target in VIEWS:
                pending.append(user)
            else:
                readers[_reader(user, reading)] = None
    named = list(readers)[:_SHOWN]
    more = f" and {len(readers) - len(named)} more" if len(readers) > len(named) else ""
    return ", ".join(named) + more if named else "nothing"


def _reader(user: Node, reading: Reading) -> str:
    if user.op == "output":
        return "whoever called the graph"
    if owner := reading.owners.get(user):
        return f"a {type(owner.meaning).__name__.lower()}"
    unread = next((refusal for refusal in reading.refusals if refusal.node == user.name), None)
    if unread:
        return f"{describe(user)}, which could not be read as a {unread.candidate}, see there"
    return f"{describe(user)} at {Location.of(user).source}"
