# SPDX-License-Identifier: Apache-2.0
"""One run of the pass over one graph: match, choose, build, replace, and account for every candidate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from helion_compile.passes.account.original_subgraph import original
from helion_compile.passes.account.records import GraphRecord, Site, Unfused
from helion_compile.passes.account.refusal import Refusal
from helion_compile.passes.ir.graph_listing import is_view
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import CLONES
from helion_compile.passes.match.chain import Chain
from helion_compile.passes.match.matched_graph import MatchedGraph, match_graph
from helion_compile.passes.rewrite.choose import Choice, Chosen, Kept, choose_chains
from helion_compile.passes.rewrite.cse import merge_copies
from helion_compile.passes.rewrite.edits import Edits
from helion_compile.passes.rewrite.emitter import Emitter
from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.rewrite.sites import pattern_name, record_kept, record_match, record_site
from helion_compile.passes.rewrite.unfused import explain_unfused
from helion_compile.passes.semantics import SemanticOp

__all__ = ["Rewriting"]

# What torch.export writes beside each cast: that its input has the dtype it had.  Inductor drops them right after this pass.
_ASSERTION = torch.ops.aten._assert_tensor_metadata.default


@dataclass
class _Replacement:
    fusion: Fusion
    chain: Chain
    emitter: Emitter
    shapes: dict[str, Node]
    outputs: list[tuple[str, Node, Node]]  # name, old, new

    def record(self) -> Site:
        nodes = self.emitter.nodes
        emitted = [node for node in nodes if not is_view(node) and node.target not in CLONES] or nodes
        return record_site(self.fusion.name, self.chain, self.shapes, emitted[0], self.emitter.nodes)


class Rewriting:
    """``doing`` says where it is, for a message about a failure, and ``location``, where it is at one place.

    Args:
        keep, reject: as :class:`FusionPass` takes them.
        originals: whether to record what each replacement stands for.
    """

    def __init__(
        self,
        graph: Graph,
        edits: Edits,
        fusions: Sequence[Fusion],
        *,
        keep: tuple[type[SemanticOp], ...],
        reject: Mapping[tuple[str, str], Refusal],
        originals: bool,
    ):
        self.graph = graph
        self.edits = edits
        self.fusions = fusions
        self.keep = keep
        self.reject = reject
        self.originals = originals
        self._doing = "while matching the graph"
        self._at_chain: Chain | None = None
        self._views: dict[Any, Node] = {}  # that were emitted
        self.changed = False  # copies in kept chains are merged, so a graph without a site may be another one

    def run(self, record: GraphRecord) -> None:
        assertions = {node for node in self.graph.nodes if node.target is _ASSERTION}
        self.edits.detach(assertions)  # else they count as readers of what a chain keeps to itself
        matched = match_graph(self.graph)
        choice = choose_chains(self.graph, matched, self.fusions, self.reject, self._at)
        record.refusals += [*matched.refusals, *choice.refusals]
        # Before new nodes are made, which would be counted among the readers.
        record.unfused += self._list_unfused(matched, choice)
        replacements = [self._build(chosen) for chosen in choice.chosen]
        record.sites += [replacement.record() for replacement in replacements]
        if self.originals:
            self._keep_originals(replacements, record)
        dead = self._replace(replacements, choice.kept)
        record.kept += [self._record_kept(kept, dead) for kept in choice.kept]
        self.changed = bool(dead)
        if self.changed:
            self.edits.erase(dead | assertions)
        else:
            self.edits.undo()
        for match in matched.matches:
            if match.anchor not in choice.used and isinstance(match.op, self.keep):
                record.kept.append(record_match(match))

    def _list_unfused(self, matched: MatchedGraph, choice: Choice) -> list[Unfused]:
        unfused = []
        for match in matched.matches:
            if match.anchor not in choice.used and not isinstance(match.op, self.keep):
                refusal = explain_unfused(match, matched, self.fusions, choice.refused.get(match.anchor, ()))
                unfused.append(Unfused(match.op, Location.of(match.last), match.last.name, refusal))
        return unfused

    def _record_kept(self, kept: Kept, erased: Collection[Node]) -> Site:
        matches = kept.chain.matches
        name = pattern_name(matches[0]) if len(matches) == 1 and isinstance(matches[0].op, self.keep) else kept.fusion.name
        return record_kept(name, kept.chain, [node for node in sorted(kept.chain.nodes) if node not in erased], kept.refusal)

    def _keep_originals(self, replacements: Sequence[_Replacement], record: GraphRecord) -> None:
        new = {old: new for replacement in replacements for _, old, new in replacement.outputs}
        for replacement, site in zip(replacements, record.sites, strict=True):
            chain = replacement.chain
            within = {node for match in chain.matches for node in match.nodes} | chain.nodes.keys()
            record.originals[site.node] = original(replacement.outputs, chain.inputs.values(), new, within)

    def _build(self, chosen: Chosen) -> _Replacement:
        fusion, chain = chosen.fusion, chosen.chain
        self._at(f"in build of {fusion.name!r}", chain)
        emitter = Emitter(self.edits, chain, chosen.after, fusion.name, self._views)
        built = fusion.build(chain, emitter)
        if not isinstance(built, Mapping):
            raise TypeError(f"build returned {built!r:.80}; it returns nodes by what they replace, as {{(Norm, 'out'): node}}")
        outputs, shapes = [], dict(chain.inputs)
        for op, name, _ in chain.outputs():
            for old in chain.copies_read(op, name):
                shapes[name] = old
                if (op, name) not in built:
                    raise ValueError(f"no node for {op.__name__}'s {name!r}, which has readers outside the chain")
                if not isinstance(built[op, name], Node):
                    raise TypeError(
                        f"build gave {built[op, name]!r:.80} for {op.__name__}'s {name!r}; give a node that emit made"
                    )
                outputs.append((name, old, emitter.in_place_of(old, built[op, name])))
        return _Replacement(fusion, chain, emitter, shapes, outputs)

    def _replace(self, replacements: Sequence[_Replacement], kept: Sequence[Kept]) -> set[Node]:
        """The nodes that are dead then."""
        for replacement in replacements:
            self._at("while replacing", replacement.chain)
            for _, old, new in replacement.outputs:
                self.edits.replace_uses(old, new, keep=replacement.chain.nodes)
            self.edits.move_readers_after(replacement.emitter.nodes)
        dead = {node for replacement in replacements for node in replacement.chain.nodes}
        for each in kept:
            self._at("while merging copies of what is kept", each.chain)
            if each.mergeable:
                dead |= merge_copies(each.chain, self.edits)
        self._doing, self._at_chain = "while checking the graph", None
        self.graph.lint()
        return dead

    @property
    def location(self) -> Location | None:
        return None if self._at_chain is None else Location.of(self._at_chain.anchor)

    @property
    def doing(self) -> str:
        return self._doing if self._at_chain is None else f"{self._doing} at {self.location}"

    def _at(self, doing: str, chain: Chain) -> None:
        self._doing, self._at_chain = doing, chain
