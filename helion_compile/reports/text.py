"""A report as plain text, for a terminal or a file.

What happens alike in many layers is told once, with the range of their numbers: "model.layers.0-35.mlp.down_proj".
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from helion_compile.passes.ir.source_location import Location
from helion_compile.reports.cause import candidates, causes
from helion_compile.reports.model import Cost

if TYPE_CHECKING:
    from helion_compile.passes.account.records import Site, Unfused
    from helion_compile.passes.account.refusal import Refusal
    from helion_compile.passes.semantics import SemanticOp
    from helion_compile.reports.model import FusedSite, GraphReport, ReportData
    from helion_compile.verify.compare import Compared

__all__ = ["render", "show"]

T = TypeVar("T")

_FIXED = "\N{NO-BREAK SPACE}"  # a space at which no line is broken
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")  # a layer's, in a module path


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
        yield from _styled(_wrapped(sentence, width, ""), "yellow")
    for line in candidates(report):
        yield from _styled(_wrapped(line, width, "  "), "")


def _origin(graph: GraphReport, number: int) -> str:
    if graph.unread:
        return "from Inductor's cache, not read again"
    return ", ".join(
        (
            f"{graph.record.nodes} nodes",
            *([f"called {_count(graph.calls)} by graph {number + graph.caller}"] if graph.caller else []),
            *([f"{graph.runs} runs in all"] if graph.runs != graph.calls else []),
            *(["traced for training"] if graph.training else []),
            *(["from Inductor's cache, told as when it was compiled"] if graph.cached else []),
            *(["compiled for an equal call of torch.compile, used here where its guards hold"] if graph.shared else []),
        )
    )


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
    for group in _alike(graph.fused, _fused_key):
        yield _fused(group)
    for refusals in _alike(record.refusals, _refusal_key):
        yield _refused(refusals)
    for sites in _alike(record.kept, _kept_key):
        yield _kept(sites)
    for unfused in _alike(record.unfused, _unfused_key):
        yield _unfused(unfused)


def _layers(graph: GraphReport) -> Block:
    """What the graph costs, and each of its layers; those that cost the same are told once."""
    before, after = graph.cost
    named = [layer for layer in graph.layers if layer.name]
    lines = []
    for group in _alike(named, lambda layer: (_NUMBER.sub("*", layer.name), layer.before, layer.after)):
        where = _modules(Location(layer.name, "", 0) for layer in group)
        lines.append(f"{where}: {_change(group[0].before, group[0].after).removeprefix('as written ')}")
    fields = [("" if number else "layers", line) for number, line in enumerate(lines)]
    return f"cost: {_change(before, after)}", fields, "bold"


def _fused(group: list[FusedSite]) -> Block:
    fused, site = group[0], group[0].site
    merged = [("merged", f"{site.merged} copies that the model computes become one")] if site.merged > 1 else []
    return (
        f"{site.fusion} in {_modules(fused.site.location for fused in group)}",
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


def _costs(fused: FusedSite) -> Iterator[tuple[str, str]]:
    if fused.before.kernels:
        yield "cost", _change(fused.before, fused.after)
    if fused.config.us is not None:
        against = ", ".join(f"{name} {us:g}" for name, us in fused.config.baselines.items())
        yield "table", f"{fused.config.us:g} µs a call{f' ({against})' if against else ''}"


def _change(before: Cost, after: Cost) -> str:
    saved = before.bytes - after.bytes
    return (
        f"as written {before.kernels} kernels that move {_size(before.bytes)}; now {after.kernels} and {_size(after.bytes)}"
        f"{f', {_size(saved)} saved' if saved > 0 else ''}"
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


def _size(count: float) -> str:
    """ "12.9 kB"."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:  # which three digits round to 1000
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _refused(group: list[Refusal]) -> Block:
    refusal = group[0]
    return (
        f"refused: {refusal.candidate} in {_modules(refusal.location for refusal in group)}",
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
        f"unfused: {unfused.name} in {_modules(unfused.location for unfused in group)}",
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


def _fused_key(fused: FusedSite) -> Hashable:
    site: Site = fused.site
    shapes = tuple(site.shapes.items())
    return fused.kernel, str(fused.config), site.ops, shapes, site.merged, fused.before, *_place(site.location)


def _kept_key(site: Site) -> Hashable:
    return site.fusion, site.ops, site.refusal and site.refusal.group


def _unfused_key(unfused: Unfused) -> Hashable:
    return unfused.op, unfused.refusal.group, *_place(unfused.location)


def _refusal_key(refusal: Refusal) -> Hashable:
    return refusal.group, *_place(refusal.location)


def _place(location: Location) -> tuple[str, str]:
    return _NUMBER.sub("*", location.module), location.source


def _alike(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """The items in groups of equal ``key``, each where its first one stands."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _modules(locations: Iterable[Location]) -> str:
    """ "model.layers.0-35.mlp (36 times)", for modules whose paths differ in numbers only."""
    paths = [location.module for location in locations]
    if not paths[0]:
        path = "the function itself"
    else:
        ranges = map(_ranges, zip(*map(_NUMBER.findall, paths), strict=True))
        path = _NUMBER.sub(lambda _: next(ranges), paths[0])
    return path if len(paths) == 1 else f"{path} ({len(paths)} times)"


def _ranges(numbers: Iterable[str]) -> str:
    """ "0-3,7"."""
    runs: list[list[int]] = []
    for number in sorted(set(map(int, numbers))):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _totals(report: ReportData) -> str:
    fused = Counter(fused.site.fusion for fused in report.sites)
    kept = Counter(site.fusion for site in report.kept)
    parts = [f"{count} {name}" for name, count in fused.items()] or ["nothing fused"]
    parts += [f"{count} {name} kept" for name, count in kept.items()]
    return ", ".join((*parts, f"{len(report.refusals)} refused"))
