# SPDX-License-Identifier: Apache-2.0
"""What a report holds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from helion_compile.passes.account.records import GraphRecord, Site, Unfused
from helion_compile.passes.account.refusal import Refusal
from helion_compile.passes.ir.graph_listing import Cost, Line
from helion_compile.passes.ir.source_location import Location
from helion_compile.verify.compare import Compared

__all__ = ["Config", "Cost", "FusedSite", "Gain", "GraphReport", "Identity", "KernelCall", "Layer", "ReportData"]

_LAYER = re.compile(r"(.*?(?:^|\.)\d+)(?:\.|$)")  # a module path up to its first number: "model.layers.0"


@dataclass(frozen=True)
class Config:
    """The config that a site runs with.

    Attributes:
        text: config and origin as one sentence, or why there is none.
        values: what ``helion.Config(**values)`` takes; None for Helion's default, or where no GPU is asked.
        origin: "exact", "bucketed", "nearest", "default-case", "default" as a pick says it; "run time" for dynamic sizes,
            then the rest is for the sizes that were traced; "reference" where there is no GPU.
        us, baselines: microseconds of a call in the table, and of what it was measured against; None where not measured.
        gpu: the GPU that this is for; empty where there is none.
    """

    text: str
    values: Mapping[str, Any] | None = None
    origin: str = ""
    us: float | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    gpu: str = ""

    @property
    def baseline_us(self) -> float | None:
        """Microseconds of what would run in the kernel's place: Inductor's code, or the library's product."""
        return self.baselines.get("inductor", self.baselines.get("library"))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class FusedSite:
    """A rewritten chain and the kernel that runs there.

    Attributes:
        before, after: what the chain cost as the model writes it, and what the kernel costs, in all runs of its graph
            (``GraphReport.runs``).  Inductor fuses as well, so its code lies between the two.
        verified: how far each result is from the original's, once the site was run against it.
    """

    site: Site
    kernel: str  # "norm_quant@1f3a5c77"
    config: Config
    before: Cost = Cost()
    after: Cost = Cost()
    verified: tuple[Compared, ...] = ()


@dataclass(frozen=True)
class KernelCall:
    """A call of a kernel that the model itself makes, as ``helion_compile.kernel`` lets it."""

    kernel: str  # "my_module::rope@1f3a5c77"
    location: Location
    node: str
    shapes: Mapping[str, str]  # "x" -> "bf16[2, 16, 256]", arguments and results
    config: Config


@dataclass(frozen=True)
class Identity:
    """Which report this is: what was asked of what, with what, when."""

    model: str  # "Qwen3ForCausalLM"
    device: str  # "cpu", "cuda:0, NVIDIA H200"
    gpu: str  # the GPU that choices and configs are for; empty where there is none
    versions: Mapping[str, str]
    date: str  # "2026-11-28T15:30+00:00"
    command: str  # of the process; empty where there is none


@dataclass(frozen=True)
class Gain:
    """What was gained over Inductor's own code.

    Attributes:
        inductor, ours: kernels and bytes of all graphs, estimated: Inductor's code for the graphs before, and for the graphs
            after with our kernels.
        inductor_us, us: microseconds of the sites that a table has times of, in all their runs; None where there are none.
        timed, sites: how many sites those are, and how many there are.
        gpu: whose times those are.
    """

    inductor: Cost
    ours: Cost
    inductor_us: float | None
    us: float | None
    timed: int
    sites: int
    gpu: str


@dataclass(frozen=True)
class Layer:
    """The cost of one layer of the model, or of all that is in none (``name`` is empty)."""

    name: str  # "model.layers.0"
    before: Cost
    after: Cost


@dataclass(frozen=True)
class GraphReport:
    """What happened to one graph.

    Attributes:
        record: the pass's own account.
        fused: its sites with their kernels, in the order of the graph.
        training: whether the graph is part of a forward/backward pair, which keeps intermediate values.
        name: Dynamo's name of the compilation, "0/0"; empty where it is not known.
        cached: whether the graph came from Inductor's cache; what is told is what was found when it was compiled, or in
            reading it anew where that is not kept.
        shared: whether it was compiled for an equal call of ``torch.compile``, and serves this one where its guards hold.
        caller: of a graph that another one calls (``torch.compiler.nested_compile_region``, a branch, the body of a loop): how
            many graphs further on that one is reported; 0 for what Python calls.
        calls: in how many places that one calls it.
        runs: how often it runs while what Python calls runs once, where a branch and a loop's body count once.
        called: kernels that the model itself calls.
    """

    record: GraphRecord
    fused: tuple[FusedSite, ...] = ()
    training: bool = False
    name: str = ""
    cached: bool = False
    shared: bool = False
    caller: int = 0
    calls: int = 1
    runs: int = 1
    called: tuple[KernelCall, ...] = ()

    @property
    def unread(self) -> bool:
        """Whether nothing is known of it: it came from the cache without what was told of it, and cannot be read anew."""
        return self.cached and not self.record.nodes

    @property
    def before(self) -> str:
        """The graph as Python code, as Inductor would have compiled it."""
        return self.record.before

    @property
    def after(self) -> str:
        """The graph as Python code, rewritten."""
        return self.record.after

    def with_verified(self, compared: Mapping[str, tuple[Compared, ...]]) -> GraphReport:
        """This report with what was measured at each site, by the site's node."""
        fused = (dataclasses.replace(fused, verified=compared.get(fused.site.node, ())) for fused in self.fused)
        return dataclasses.replace(self, fused=tuple(fused))

    def repeated(self, count: int) -> GraphReport:
        """This report of a graph that runs ``count`` times as often."""
        scaled = (dataclasses.replace(f, before=f.before.times(count), after=f.after.times(count)) for f in self.fused)
        return dataclasses.replace(self, fused=tuple(scaled), runs=self.runs * count)

    @property
    def cost(self) -> tuple[Cost, Cost]:
        """Of the graph before and after, in all its runs."""
        lines = self.record.lines_before, self.record.lines_after
        before, after = (Cost.of(each).times(self.runs) for each in lines)
        return before, after

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The cost of each layer before and after, in all runs of the graph, in its order."""
        before, after = _by_layer(self.record.lines_before), _by_layer(self.record.lines_after)
        names = dict.fromkeys((*before, *after))
        costs = ([Cost.of(lines.get(name, ())).times(self.runs) for lines in (before, after)] for name in names)
        return tuple(Layer(name, *cost) for name, cost in zip(names, costs, strict=True))


@dataclass(frozen=True)
class ReportData:
    """What happened to a model, graph by graph.

    Attributes:
        graphs: one for each graph that Dynamo made of the model.
        sites: every rewritten chain.
        refusals: every candidate that was refused.
        unfused: every match that is part of no site, with the refusal.
        kept: every chain that is kept on purpose: a library's GEMM, or what a fusion found unprofitable.
        called: every call of a kernel that the model itself makes.
        gain: what was gained over Inductor's own code.
        note: why there is no graph, where that can be told; empty otherwise.
        identity: which report this is.
    """

    graphs: tuple[GraphReport, ...]
    note: str = ""
    identity: Identity | None = None

    @property
    def sites(self) -> list[FusedSite]:
        return [site for graph in self.graphs for site in graph.fused]

    @property
    def refusals(self) -> list[Refusal]:
        return [refusal for graph in self.graphs for refusal in graph.record.refusals]

    @property
    def unfused(self) -> list[Unfused]:
        return [unfused for graph in self.graphs for unfused in graph.record.unfused]

    @property
    def kept(self) -> list[Site]:
        return [site for graph in self.graphs for site in graph.record.kept]

    @property
    def called(self) -> list[KernelCall]:
        return [call for graph in self.graphs for call in graph.called]

    @property
    def gain(self) -> Gain:
        runs = [(graph.runs, fused.config) for graph in self.graphs for fused in graph.fused]
        times = [(count * config.baseline_us, count * config.us) for count, config in runs if config.us and config.baseline_us]
        inductor, ours = Cost(), Cost()
        for graph in self.graphs:
            inductor += graph.record.inductor_before.times(graph.runs)
            ours += graph.record.inductor_after.times(graph.runs)
        theirs, own = (sum(each) for each in zip(*times, strict=True)) if times else (None, None)
        gpus = dict.fromkeys(config.gpu for _, config in runs if config.gpu)
        return Gain(inductor, ours, theirs, own, len(times), len(runs), ", ".join(gpus))


def layer_of(module: str) -> str:
    """ "model.layers.0" of "model.layers.0.mlp.gate_proj"; empty for a module that is in no layer."""
    found = _LAYER.match(module)
    return found.group(1) if found else ""


def lines_with_layers(lines: Iterable[Line]) -> Iterator[tuple[Line, str]]:
    """Each line with its layer.  What no module made, a view of the pass's say, belongs to the line before."""
    layer = ""
    for line in lines:
        layer = layer_of(line.location.module) if line.location.module else layer
        yield line, layer


def _by_layer(lines: Iterable[Line]) -> dict[str, list[Line]]:
    layers: dict[str, list[Line]] = {}
    for line, layer in lines_with_layers(lines):
        layers.setdefault(layer, []).append(line)
    return layers
