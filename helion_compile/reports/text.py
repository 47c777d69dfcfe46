# SPDX-License-Identifier: Apache-2.0
"""A report as plain text, for a terminal or a file.

What happens alike in many layers is told once, with the range of their numbers: "model.layers.0-35.mlp.down_proj".
"""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from helion_compile.reports.cause import candidates, causes
from helion_compile.reports.grouping import (
    group_called,
    group_fused,
    group_kept,
    group_layers,
    group_refusals,
    group_unfused,
    name_modules,
)
from helion_compile.reports.headline import headline, identity_text, size_text
from helion_compile.reports.model import Cost

if TYPE_CHECKING:
    from helion_compile.passes.account.records import Site, Unfused
    from helion_compile.passes.account.refusal import Refusal
    from helion_compile.passes.semantics import SemanticOp
    from helion_compile.reports.model import Config, FusedSite, GraphReport, KernelCall, ReportData
    from helion_compile.verify.compare import Compared

__all__ = ["render", "show", "tell_calls"]

_FIXED = "\N{NO-BREAK SPACE}"  # a space at which no line is broken


def render(report: ReportData, width: int | None = None) -> str:
    """The report in lines of ``width`` columns, by default the terminal's; only what has no space in it may be longer."""
    return "\n".join(line for line, _ in _lines(report, width))


def show(report: ReportData) -> None:
    """Print the report: with colours to a terminal, as plain text to anything else."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    width = console.width if console.is_terminal else None
    for line, style in _lines(report, width):
        console.print(Text(line, style=style if console.is_terminal else ""))


def _lines(report: ReportData, width: int | None) -> Iterator[tuple[str, str]]:
    """Lines, each with the style that a terminal gives it."""
    width = width or min(shutil.get_terminal_size((100, 24)).columns, 160)
    if report.identity is not None:
        yield from _styled(_wrapped(identity_text(report.identity), width, ""), "dim")
    told = headline(report)
    for label, text in told.lines:
        yield from _styled(_wrapped(text, width, f"{label:11}"), "yellow" if label == "held back" else "bold")
    yield "", ""
    for number, graph in enumerate(report.graphs, start=1):
        yield from _styled(_wrapped(f"Graph {number} of {len(report.graphs)}: {_origin(graph, number)}", width, ""), "bold")
        for name, symbol in graph.record.symbols.items():
            yield from _styled(_wrapped(f"{name}: {symbol}", width, "  "), "dim")
        yield "", ""
        for head, fields, style in _blocks(graph):
            yield from _styled(_wrapped(head, width, "  "), style)
            for label, text in fields:
                broken = "bold red" if label == "broken" else ""
                yield from _styled(_wrapped(text, width, f"    {label:9}"), broken)
            yield "", ""
    yield from _styled(_wrapped(f"Total: {_totals(report)}.", width, ""), "bold")
    for sentence in causes(report):
        if sentence == told.held_back:
            continue  # it stands on top
        yield from _styled(_wrapped(sentence, width, ""), "yellow")
    for line in candidates(report):
        yield from _styled(_wrapped(line, width, "  "), "")


def _origin(graph: GraphReport, number: int) -> str:
    if graph.unread:
        return "from Inductor's cache, not read again"
    return ", ".join(
        (
            f"{graph.record.nodes} nodes",
            *([calls] if (calls := tell_calls(graph, number)) else []),
            *(["traced for training"] if graph.training else []),
            *(["from Inductor's cache, told as when it was compiled"] if graph.cached else []),
            *(["compiled for an equal call of torch.compile, used here where its guards hold"] if graph.shared else []),
        )
    )


def tell_calls(graph: GraphReport, number: int) -> str:
    """ "called 2 times by graph 3, 4 runs in all", of graph ``number``; empty for what Python calls."""
    told = [f"called {_count(graph.calls)} by graph {number + graph.caller}"] if graph.caller else []
    return ", ".join([*told, *([f"{graph.runs} runs in all"] if graph.runs != graph.calls else [])])


def _count(times: int) -> str:
    return "once" if times == 1 else f"{times} times"


def _styled(lines: Iterable[str], style: str) -> Iterator[tuple[str, str]]:
    return ((line, style) for line in lines)


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    further = " " * max(len(indent), 4)
    lines = textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_FIXED, " ") for line in lines]


def _listed(items: Iterable[str]) -> str:
    """The items in a line that may be broken between them only."""
    return ", ".join(item.replace(" ", _FIXED) for item in items)


Block = tuple[str, list[tuple[str, str]], str]  # a heading, labelled lines, and the heading's style


def _blocks(graph: GraphReport) -> Iterator[Block]:
    record = graph.record
    if record.error:
        yield f"Nothing fused: {record.error}", [], "bold red"
    if len(graph.fused) > 1:
        yield _layers(graph)
    for group in group_fused(graph):
        yield _fused(group)
    for calls in group_called(graph):
        yield _called(calls)
    for refusals in group_refusals(graph):
        yield _refused(refusals)
    for sites in group_kept(graph):
        yield _kept(sites)
    for unfused in group_unfused(graph):
        yield _unfused(unfused)


def _layers(graph: GraphReport) -> Block:
    """What the graph costs, and each of its layers; those that cost the same are told once."""
    before, after = graph.cost
    named = [layer for layer in graph.layers if layer.name]
    lines = []
    for group in group_layers(named):
        where = name_modules(layer.name for layer in group)
        lines.append(f"{where}: {_change(group[0].before, group[0].after).removeprefix('as written ')}")
    fields = [("" if number else "layers", line) for number, line in enumerate(lines)]
    return f"cost: {_change(before, after)}", fields, "bold"


def _fused(group: list[FusedSite]) -> Block:
    fused, site = group[0], group[0].site
    merged = [("merged", f"{site.merged} copies that the model computes become one")] if site.merged > 1 else []
    return (
        f"{site.fusion} in {name_modules(fused.site.location.module for fused in group)}",
        [
            ("source", site.location.source),
            ("ops", " -> ".join(map(_op, site.ops))),
            ("shapes", _listed(f"{name} {shape}" for name, shape in site.shapes.items())),
            *merged,
            ("kernel", fused.kernel),
            ("config", str(fused.config)),
            *_costs(fused),
            *_verified(group),
        ],
        "bold green",
    )


def _called(group: list[KernelCall]) -> Block:
    call = group[0]
    return (
        f"called: {call.kernel.partition('@')[0]} in {name_modules(call.location.module for call in group)}",
        [
            ("source", call.location.source),
            ("shapes", _listed(f"{name} {shape}" for name, shape in call.shapes.items())),
            ("kernel", call.kernel),
            ("config", str(call.config)),
            *_table(call.config),
        ],
        "bold green",
    )


def _costs(fused: FusedSite) -> Iterator[tuple[str, str]]:
    if fused.before.kernels:
        yield "cost", _change(fused.before, fused.after)
    yield from _table(fused.config)


def _table(config: Config) -> Iterator[tuple[str, str]]:
    if config.us is not None:
        against = ", ".join(f"{name} {us:g}" for name, us in config.baselines.items())
        yield "table", f"{config.us:g} µs a call{f' ({against})' if against else ''}"


def _change(before: Cost, after: Cost) -> str:
    saved = before.bytes - after.bytes
    return (
        f"as written {before.kernels} kernels that move {size_text(before.bytes)}; "
        f"now {after.kernels} and {size_text(after.bytes)}{f', {size_text(saved)} saved' if saved > 0 else ''}"
    )


def _verified(group: list[FusedSite]) -> Iterator[tuple[str, str]]:
    """What was measured, the worst of the group, and every contract that is broken."""
    outputs: dict[str, list[Compared]] = {}
    for fused in group:
        for compared in fused.verified:
            outputs.setdefault(compared.output, []).append(compared)
    for each in outputs.values():
        yield "verified", str(max(each, key=lambda compared: (compared.max_steps, compared.differing)))
    for fused in group:
        for compared in fused.verified:
            if compared.broken:
                yield "broken", f"{fused.site.location.module or fused.site.node}: {compared.output}: {compared.broken}"


def _refused(group: list[Refusal]) -> Block:
    refusal = group[0]
    return (
        f"refused: {refusal.candidate} in {name_modules(refusal.location.module for refusal in group)}",
        [
            ("source", refusal.location.source),
            ("node", refusal.node),
            *([("near", f"{refusal.near}, missing: {', '.join(refusal.missing)}")] if refusal.near else []),
            *_why(refusal),
        ],
        "bold yellow",
    )


def _unfused(group: list[Unfused]) -> Block:
    unfused = group[0]
    return (
        f"unfused: {unfused.name} in {name_modules(unfused.location.module for unfused in group)}",
        [("source", unfused.location.source), ("op", _op(unfused.op)), *_why(unfused.refusal)],
        "dim",
    )


def _kept(group: list[Site]) -> Block:
    site = group[0]
    why = _why(site.refusal) if site.refusal else []
    return f"kept: {len(group)} x {' -> '.join(map(str, site.ops))}", [*why], "dim"


def _why(refusal: Refusal) -> Iterator[tuple[str, str]]:
    yield "found", refusal.found
    yield "fuses", refusal.remedy


def _op(op: SemanticOp) -> str:
    """An op in a line that may be broken between its attributes only."""
    return _listed(str(op).split(", "))


def _totals(report: ReportData) -> str:
    fused = Counter(fused.site.fusion for fused in report.sites)
    kept = Counter(site.fusion for site in report.kept)
    parts = [f"{count} {name}" for name, count in fused.items()] or ["nothing fused"]
    parts += [f"{count} {name} kept" for name, count in kept.items()]
    parts += [f"{len(report.called)} called by the model"] if report.called else []
    return ", ".join((*parts, f"{len(report.refusals)} refused"))
