# SPDX-License-Identifier: Apache-2.0
"""Why a match became part of no site."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from helion_compile.passes.account.refusal import Detail, Refusal, RefusalKind
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import VIEWS, describe, format_target
from helion_compile.passes.match.match import Match
from helion_compile.passes.match.matched_graph import MatchedGraph
from helion_compile.passes.rewrite.between import refuse_what_is_between
from helion_compile.passes.rewrite.fusion import Fusion

__all__ = ["explain_unfused"]

_SHOWN = 2  # readers that a refusal names
_CANDIDATES = {
    "activation": "an activation",
    "complex_rope": "a complex rotary embedding",
    "quantize": "a quantiser",
    "rope": "a rotary embedding",
}


def explain_unfused(match: Match, matched: MatchedGraph, fusions: Sequence[Fusion], refused: Sequence[str]) -> Refusal:
    """The refusal; ``refused`` are the names of the fusions that had the match in a chain and did not take it."""
    if refused:
        names = list(dict.fromkeys(refused))
        return Refusal.of(RefusalKind.REFUSED, match.last, "refused by {fusions}", "see there", fusions=names)
    chains = [fusion.chain for fusion in fusions if any(isinstance(match.op, each) for each in fusion.chain)]
    if not chains:
        found, remedy = "no fusion in use takes {op}", "a fusion whose chain has {op} takes it"
        return Refusal.of(RefusalKind.NO_FUSION, match.last, found, remedy, op=match.op.name)
    if refusal := refuse_what_is_between(match, matched, fusions):
        return refusal
    taken = list(dict.fromkeys(" -> ".join(each.__name__ for each in chain) for chain in chains))
    readers = _readers(match, matched)
    found, remedy = "the result is read by {readers}", "the fusions in use take {chains}"
    return Refusal.of(RefusalKind.NO_CHAIN, match.last, found, remedy, readers=readers, chains=" or ".join(taken))


def _readers(match: Match, matched: MatchedGraph) -> Detail:
    readers: dict[str, str] = {}
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
                text, alike = _reader(user, matched)
                readers[text] = alike
    return Detail("readers", *map(_listed, (list(readers), list(readers.values()))))


def _listed(readers: Sequence[str]) -> str:
    more = [f"{len(readers) - _SHOWN} more"] if len(readers) > _SHOWN else []
    return " and ".join([", ".join(readers[:_SHOWN]), *more]) or "nothing"


def _name(candidate: str) -> str:
    return _CANDIDATES.get(candidate, f"a {candidate}")


def _reader(user: Node, matched: MatchedGraph) -> tuple[str, str]:
    """A reader with and without the name of its node."""
    if user.op == "output":
        return ("whoever called the graph",) * 2
    if owner := matched.owners.get(user):
        return (owner.op.name,) * 2
    failed = next((refusal for refusal in matched.refusals if refusal.node == user.name), None)
    where = f" at {Location.of(user).source}"
    if failed:
        where = f", which could not be matched as {_name(failed.candidate)}, see there"
    return describe(user) + where, format_target(user.target) + where
