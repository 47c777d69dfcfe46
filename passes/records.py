"""What the pass did to one graph and why not more: the data behind every report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from passes.source import Location

__all__ = ["GraphRecord", "Refusal", "Site"]


@dataclass(frozen=True)
class Site:
    """One chain of meanings, rewritten or kept as it is on purpose."""

    fusion: str  # name of the fusion, or "matmul" for a library product that was read and kept
    location: Location  # of the chain's last step
    meanings: tuple[str, ...]  # "Norm(eps=1e-06, …)", in the order of the chain
    shapes: dict[str, str]  # "x" -> "bf16[2, 8, 256]", inputs and outputs
    merged: int  # spelled copies that this one call replaces: q, k and v that each quantise one norm give 3
    node: str  # name of the node in the graph after the pass


@dataclass(frozen=True)
class Refusal:
    """One candidate that was left as it was."""

    candidate: str  # "norm", "quantize", "matmul", or the name of the fusion that would have taken it
    reason: str  # a sentence: what was found and what would make it fuse
    location: Location
    node: str  # the node at which reading stopped


@dataclass
class GraphRecord:
    """Everything the pass has to say of one graph."""

    sites: list[Site] = field(default_factory=list)
    kept: list[Site] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    unclaimed: dict[str, int] = field(default_factory=dict)  # read, but part of no site: {"norm": 5} nobody quantises
    nodes: int = 0  # in the graph before the pass
    seconds: float = 0.0  # spent in the pass
    before: str = ""  # readable code of the graph; filled only by `FusionPass(keep_code=True)`
    after: str = ""
    error: str | None = None  # the pass failed on this graph and put it back: one sentence

    def summary(self) -> str:
        """One line: what was fused, kept, refused, and read without use."""
        if self.error:
            return f"nothing fused: {self.error}"
        sites = Counter(site.fusion for site in self.sites)
        kept = Counter(site.fusion for site in self.kept)
        parts = [f"{count} x {name}" for name, count in sites.items()] or ["nothing fused"]
        parts += [f"{count} x {name} kept" for name, count in kept.items()]
        parts += [f"{count} x {name} in no fusion" for name, count in self.unclaimed.items()]
        parts += [f"{len(self.refusals)} refused"] if self.refusals else []
        return f"{', '.join(parts)} ({self.nodes} nodes, {self.seconds:.2f} s)"
