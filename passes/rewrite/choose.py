# SPDX-License-Identifier: Apache-2.0
"""The choice of the chains that are rewritten, in the order of the fusions."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch.fx import Graph, Node

from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.match.chain import Chain, find_chains
from helion_compile.passes.match.matched_graph import MatchedGraph
from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.rewrite.insertion_point import InsertionPoints
from helion_compile.passes.rewrite.sites import list_steps

__all__ = ["Choice", "Chosen", "Kept", "choose_chains"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """A chain to rewrite; its replacement stands behind ``after``."""

    fusion: Fusion
    chain: Chain
    after: Node


@dataclass(frozen=True)
class Kept:
    """A chain that a fusion found unprofitable.  ``mergeable``: its copies still equal each other where they are read."""

    fusion: Fusion
    chain: Chain
    refusal: Refusal
    mergeable: bool


@dataclass
class Choice:
    """What becomes of the chains of a graph."""

    chosen: list[Chosen] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    refused: dict[Node, list[str]] = field(default_factory=dict)  # a match's anchor -> the fusions that refused it
    used: set[Node] = field(default_factory=set)  # anchors of the matches in chosen and kept chains

    def claim(self, chain: Chain) -> None:
        self.used.update(match.anchor for match in chain.matches)


def choose_chains(
    graph: Graph,
    matched: MatchedGraph,
    fusions: Sequence[Fusion],
    reject: Mapping[tuple[str, str], Refusal],
    at: Callable[[str, Chain], None],
) -> Choice:
    """The choice; ``at`` is told what is done at which chain, for messages about failures."""
    points = InsertionPoints(graph)
    choice = Choice()

    def check(fusion: Fusion, chain: Chain) -> tuple[Node | Refusal, int]:
        """The insertion point or the refusal, and how many checks were passed."""
        at(f"in check of {fusion.name!r}", chain)
        refusal = reject.get((fusion.name, chain.anchor.name)) or fusion.check(chain)
        if not isinstance(refusal, Refusal | None):
            raise TypeError(f"check returned {refusal!r:.80}; it returns None, or what chain.refuse(…) makes")
        if refusal is not None:
            return refusal, 0
        at("while looking for an insertion point", chain)
        point = points.find(chain)
        return point, 1 if isinstance(point, Refusal) else 2

    def concerns(fusion: Fusion, chain: Chain) -> bool:
        at(f"in concerns of {fusion.name!r}", chain)
        return fusion.concerns(chain)

    for fusion in fusions:
        for found_chains in find_chains(matched, fusion.chain, choice.used):
            if not (sizes := [chain for chain in found_chains if concerns(fusion, chain)]):
                continue
            for chain in sizes:
                found, passed = check(fusion, chain)
                if isinstance(found, Node):
                    choice.chosen.append(Chosen(fusion, chain, found))
                    choice.claim(chain)
                    matched.rewritten.update(node for _, _, copies in chain.outputs() for node in copies)
                    break
                if found.kind in (RefusalKind.UNPROFITABLE, RefusalKind.UNTUNED):
                    choice.kept.append(Kept(fusion, chain, found, isinstance(points.find(chain), Node)))
                    choice.claim(chain)
                    break
                log.debug("%s does not take %s: %s", fusion.name, chain, found)
            else:
                # The refusal that counts is that of the smallest chain, which asks for least.
                steps = list_steps(chain, passed)
                choice.refusals.append(
                    dataclasses.replace(
                        found,
                        candidate=fusion.name,
                        node=chain.anchor.name,
                        location=Location.of(chain.anchor),
                        matched=steps[0],
                        missing=steps[1],
                    )
                )
                for match in chain.matches:
                    choice.refused.setdefault(match.anchor, []).append(fusion.name)
    return choice
