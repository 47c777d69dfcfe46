"""What the pass did to one graph and why not more: the data behind every report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from helion_compile.passes.account.op_counts import Found
from helion_compile.passes.account.original_subgraph import Original
from helion_compile.passes.ir.dynamic_sizes import Symbol
from helion_compile.passes.ir.graph_listing import Line
from helion_compile.passes.ir.source_location import Location

__all__ = ["GraphRecord", "Unfused", "Refusal", "Site"]

_FORMS = (
    re.compile(r"expected (?P<wanted>.*?), found (?P<found>.*)", re.DOTALL),
    re.compile(r"(?P<wanted>.*?) fuses, found (?P<found>.*)", re.DOTALL),
)


@dataclass(frozen=True)
class Site:
    """One chain of meanings, rewritten or kept as it is on purpose."""

    fusion: str  # name of the fusion that has or left it, or "matmul" for a library product that was read and kept
    location: Location  # of the chain's last step
    ops: tuple[str, ...]  # "Norm(eps=1e-06, …)", in the order of the chain
    shapes: dict[str, str]  # "x" -> "bf16[2, 8, 256]", inputs and outputs
    merged: int  # spelled copies that this one call replaces: q, k and v that each quantise one norm give 3
    node: str  # the call in the graph after the pass: the first node of the site that is no view
    replaced: tuple[str, ...] = ()  # nodes of the graph before that are gone; empty for a kept site
    nodes: tuple[str, ...] = ()  # nodes of the graph after that stand for them; of a kept site, its own
    anchor: str = ""  # the chain's last node in the graph before: what names the chain in another run of the pass
    reason: str = ""  # of a kept site: why it is the better way, where a fusion left it


@dataclass(frozen=True)
class Refusal:
    """One candidate that was left as it was.

    ``reason`` keeps to one of three forms, which `found` and `remedy` take apart: "what was found; what would fuse" (at
    the first semicolon outside brackets), "expected what would fuse, found what is there" and "this fuses, found that".
    """

    candidate: str  # "norm", "quantize", "matmul", or the name of the fusion that would have taken it
    reason: str  # a sentence: what was found and what would make it fuse
    location: Location
    node: str  # the node at which reading stopped, or the chain's last; a name in the graph before
    matched: tuple[str, ...] = ()  # the steps that were found, in the order in which values flow
    missing: tuple[str, ...] = ()  # and those that were not, or were not looked for any more

    @property
    def found(self) -> str:
        """What is in the way."""
        return _parts(self.reason)[0]

    @property
    def remedy(self) -> str:
        """What would make it fuse; empty where the reason does not say."""
        return _parts(self.reason)[1]

    @property
    def near(self) -> str:
        """ "matched 5 of 6 steps"; empty where no steps were counted."""
        steps = len(self.matched) + len(self.missing)
        return f"matched {len(self.matched)} of {steps} steps" if steps else ""


def _parts(reason: str) -> tuple[str, str]:
    depth = 0
    for index, character in enumerate(reason):
        depth += (character in "([{") - (character in ")]}")
        if character == ";" and depth == 0:
            return reason[:index].strip(), reason[index + 1 :].strip()
    for form in _FORMS:
        if parts := form.fullmatch(reason):
            return f"found {parts['found']}", parts["wanted"]
    return reason, ""


@dataclass(frozen=True)
class Unfused:
    """A stretch that was read and is part of no site."""

    name: str  # "norm", "quantize"
    op: str  # "Norm(rms, …)"
    location: Location
    node: str  # its last node
    reason: str  # why no fusion has it


@dataclass
class GraphRecord:
    """Everything the pass has to say of one graph."""

    sites: list[Site] = field(default_factory=list)
    kept: list[Site] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    unfused: list[Unfused] = field(default_factory=list)  # read, but part of no site
    inventory: list[Found] = field(default_factory=list)  # what looks like a norm, a quantiser or a product, read or not
    symbols: dict[str, Symbol] = field(default_factory=dict)  # the sizes that are dynamic: "s0"
    nodes: int = 0  # in the graph before the pass
    seconds: float = 0.0  # spent in the pass
    before: str = ""  # readable code of the graph; filled only by `FusionPass(keep_code=True)`
    after: str = ""
    lines_before: tuple[Line, ...] = ()  # the same node by node, with what each costs
    lines_after: tuple[Line, ...] = ()
    originals: dict[str, Original] = field(default_factory=dict)  # Site.node -> what was there; `keep_originals=True` only
    error: str | None = None  # the pass failed on this graph and put it back: one sentence

    @property
    def unclaimed(self) -> dict[str, int]:
        """How many were read but are part of no site: {"norm": 5} nobody quantises."""
        return dict(Counter(unfused.name for unfused in self.unfused))

    def details(self) -> Iterator[str]:
        """A line for each site and each refusal."""
        for site in self.sites:
            yield f"fused {site.fusion} at {site.location}: {' -> '.join(site.ops)}"
        for refusal in self.refusals:
            yield f"not fused {refusal.candidate} at {refusal.location}: {refusal.reason}"

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
