"""Why a stretch whose meaning is known became part of no site."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import VIEWS, describe
from helion_compile.passes.match.match import Match
from helion_compile.passes.match.matched_graph import MatchedGraph
from helion_compile.passes.rewrite.fusion import Fusion

__all__ = ["explain_unfused"]

_SHOWN = 2  # readers that a sentence names


def explain_unfused(match: Match, matched: MatchedGraph, fusions: Sequence[Fusion], refused: Sequence[str]) -> str:
    """A sentence; ``refused`` are the names of the fusions that had the region in a chain and did not take it."""
    name = type(match.op).__name__.lower()
    if refused:
        return f"refused by {', '.join(dict.fromkeys(refused))}, see there"
    chains = [fusion.chain for fusion in fusions if any(isinstance(match.op, each) for each in fusion.chain)]
    if not chains:
        return f"no fusion in use takes a {name}"
    takes = " or ".join(dict.fromkeys(" -> ".join(each.__name__.lower() for each in chain) for chain in chains))
    return f"the fusions in use take {takes}; here the result is read by {_readers(match, matched)}"


def _readers(match: Match, matched: MatchedGraph) -> str:
    readers: dict[str, None] = {}
    pending = [node for copies in match.outputs.values() for node in copies]
    seen: set[Node] = set(match.nodes)
    for node in pending:
        for user in node.users:
            if user in seen:
                continue
            seen.add(user)
            if user.target in VIEWS:
                pending.append(user)
            else:
                readers[_reader(user, matched)] = None
    named = list(readers)[:_SHOWN]
    more = f" and {len(readers) - len(named)} more" if len(readers) > len(named) else ""
    return ", ".join(named) + more if named else "nothing"


def _reader(user: Node, matched: MatchedGraph) -> str:
    if user.op == "output":
        return "whoever called the graph"
    if owner := matched.owners.get(user):
        return f"a {type(owner.op).__name__.lower()}"
    failed = next((refusal for refusal in matched.refusals if refusal.node == user.name), None)
    if failed:
        return f"{describe(user)}, which could not be read as a {failed.candidate}, see there"
    return f"{describe(user)} at {Location.of(user).source}"
