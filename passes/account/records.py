# SPDX-License-Identifier: Apache-2.0
"""What the pass did to one graph and why not more: the data behind every report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from helion_compile.passes.account.op_counts import Found
from helion_compile.passes.account.original_subgraph import Original
from helion_compile.passes.account.refusal import Refusal
from helion_compile.passes.ir.dynamic_sizes import Symbol
from helion_compile.passes.ir.graph_code import print_code
from helion_compile.passes.ir.graph_listing import Cost, Line
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.semantics import SemanticOp

__all__ = ["GraphRecord", "Site", "Unfused"]


@dataclass(frozen=True)
class Site:
    """One chain of semantic ops, rewritten or kept as it is on purpose."""

    fusion: str  # name of the fusion that rewrote or kept it, or "matmul" for a library's GEMM that no fusion has
    location: Location  # of the chain's last step
    ops: tuple[SemanticOp, ...]  # in the order of the chain
    shapes: dict[str, str]  # "x" -> "bf16[2, 8, 256]", inputs and outputs
    merged: int  # copies in the model that this one call replaces: q, k and v that each quantise one norm give 3
    node: str  # the call in the graph after the pass: the first node of the site that is no view
    replaced: tuple[str, ...] = ()  # nodes of the graph before that are gone; empty for a kept site
    nodes: tuple[str, ...] = ()  # nodes of the graph after that stand for them; of a kept site, its own
    anchor: str = ""  # the chain's last node in the graph before: what names the chain in another run of the pass
    refusal: Refusal | None = None  # of a kept site: why a fusion found it unprofitable


@dataclass(frozen=True)
class Unfused:
    """A match that is part of no site."""

    op: SemanticOp
    location: Location
    node: str  # its last node
    refusal: Refusal  # why no fusion has it

    @property
    def name(self) -> str:
        return self.op.name


@dataclass
class GraphRecord:
    """Everything the pass has to say of one graph."""

    sites: list[Site] = field(default_factory=list)
    kept: list[Site] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    unfused: list[Unfused] = field(default_factory=list)  # matched, but part of no site
    inventory: list[Found] = field(default_factory=list)  # what looks like a norm, a quantiser or a GEMM, matched or not
    symbols: dict[str, Symbol] = field(default_factory=dict)  # the sizes that are dynamic: "s0"
    nodes: int = 0  # in the graph before the pass
    left_out: tuple[str, ...] = ()  # the fusions that the pass was told to leave out
    seconds: float = 0.0  # spent in the pass
    lines_before: tuple[Line, ...] = ()  # the graph node by node, with what each costs; only by `FusionPass(keep_code=True)`
    lines_after: tuple[Line, ...] = ()
    inductor_before: Cost = Cost()  # an estimate of what Inductor makes of the graph before
    inductor_after: Cost = Cost()
    originals: dict[str, Original] = field(default_factory=dict)  # Site.node -> what was there; `keep_originals=True` only
    error: str | None = None  # the pass failed on this graph and put it back: one sentence

    @property
    def before(self) -> str:
        """Code of the graph, printed when it is asked for; empty without ``lines_before``."""
        return print_code(self.lines_before)

    @property
    def after(self) -> str:
        """The same, rewritten."""
        return print_code(self.lines_after)

    def count_unfused(self) -> dict[str, int]:
        """How many matches are part of no site: {"RMSNorm": 5} that nobody quantises."""
        return dict(Counter(unfused.name for unfused in self.unfused))

    def details(self) -> Iterator[str]:
        """A line for each site and each refusal."""
        for site in self.sites:
            yield f"fused {site.fusion} at {site.location}: {' -> '.join(map(str, site.ops))}"
        for refusal in self.refusals:
            yield f"refused {refusal.candidate} at {refusal.location}: {refusal}"

    def summary(self) -> str:
        """One line: what was fused, kept, refused, and matched without use."""
        if self.error:
            return f"nothing fused: {self.error}"
        sites = Counter(site.fusion for site in self.sites)
        kept = Counter(site.fusion for site in self.kept)
        parts = [f"{count} x {name}" for name, count in sites.items()] or ["nothing fused"]
        parts += [f"{count} x {name} kept" for name, count in kept.items()]
        parts += [f"{count} x {name} unfused" for name, count in self.count_unfused().items()]
        parts += [f"{len(self.refusals)} refused"] if self.refusals else []
        return f"{', '.join(parts)} ({self.nodes} nodes, {self.seconds:.2f} s)"
