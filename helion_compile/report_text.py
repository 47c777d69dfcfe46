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

from passes.source import Location

if TYPE_CHECKING:
    from helion_compile.explain import FusedSite, GraphReport, Report
    from passes.records import Refusal, Site

__all__ = ["render"]

T = TypeVar("T")

_FIXED = "\N{NO-BREAK SPACE}"  # a space at which no line is broken
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")  # a layer's, in a module path


def render(report: Report, width: int | None = None) -> str:
    """The report in lines of ``width`` columns, by default the terminal's; only what has no space in it may be longer."""
    width = width or min(shutil.get_terminal_size((100, 24)).columns, 160)
    lines: list[str] = []
    for number, graph in enumerate(report.graphs, start=1):
        training = ", traced for training" if graph.training else ""
        lines += [f"Graph {number} of {len(report.graphs)}: {graph.record.nodes} nodes{training}", ""]
        for head, fields in _blocks(graph):
            lines += _wrapped(head, width, "  ")
            for label, text in fields:
                lines += _wrapped(text, width, f"    {label:9}")
            lines.append("")
    for sentence in (f"Total: {_totals(report)}.", *_hints(report)):
        lines += _wrapped(sentence, width, "")
    return "\n".join(lines)


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    further = " " * max(len(indent), 4)
    lines = textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_FIXED, " ") for line in lines]


def _listed(items: Iterable[str]) -> str:
    """The items in a line that may be broken between them only."""
    return ", ".join(item.replace(" ", _FIXED) for item in items)


Block = tuple[str, list[tuple[str, str]]]  # a heading, and labelled lines


def _blocks(graph: GraphReport) -> Iterator[Block]:
    record = graph.record
    if record.error:
        yield f"Nothing fused: {record.error}", []
    for group in _alike(graph.fused, _fused_key):
        yield _fused(group)
    for group in _alike(record.refusals, _refusal_key):
        yield _refused(group)
    for meanings, count in Counter(site.meanings for site in record.kept).items():
        yield f"{count} x {' -> '.join(meanings)}: left to the library", []
    for name, count in record.unclaimed.items():
        yield f"{count} x {name}: read, but in no chain that a kernel takes", []


def _fused(group: list[FusedSite]) -> Block:
    fused, site = group[0], group[0].site
    merged = [("merged", f"{site.merged} copies that the model computes become one")] if site.merged > 1 else []
    return (
        f"{site.fusion} in {_modules(fused.site.location for fused in group)}",
        [
            ("source", site.location.source),
            ("meaning", " -> ".join(_listed(meaning.split(", ")) for meaning in site.meanings)),
            ("shapes", _listed(f"{name} {shape}" for name, shape in site.shapes.items())),
            *merged,
            ("kernel", fused.kernel),
            ("config", fused.config),
        ],
    )


def _refused(group: list[Refusal]) -> Block:
    refusal = group[0]
    return (
        f"not fused: {refusal.candidate} in {_modules(refusal.location for refusal in group)}",
        [("source", refusal.location.source), ("node", refusal.node), ("reason", refusal.reason)],
    )


def _fused_key(fused: FusedSite) -> Hashable:
    site: Site = fused.site
    return fused.kernel, fused.config, site.meanings, tuple(site.shapes.items()), site.merged, *_place(site.location)


def _refusal_key(refusal: Refusal) -> Hashable:
    # Reasons name nodes, which are numbered through the graph.
    return refusal.candidate, re.sub(r"_\d+\b", "", refusal.reason), *_place(refusal.location)


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


def _totals(report: Report) -> str:
    fused = Counter(fused.site.fusion for fused in report.sites)
    kept = Counter(site.fusion for site in report.kept)
    parts = [f"{count} {name}" for name, count in fused.items()] or ["nothing fused"]
    parts += [f"{count} {name} kept" for name, count in kept.items()]
    return ", ".join((*parts, f"{len(report.refusals)} refused"))


def _hints(report: Report) -> Iterator[str]:
    if any(graph.training for graph in report.graphs):
        yield "A graph for training keeps intermediate values for backward: call under torch.no_grad() for inference."
    elif not report.graphs:
        yield "There is no graph: the model calls no torch operation that Dynamo traces."
    elif not report.sites and not report.refusals and not any(graph.record.error for graph in report.graphs):
        yield "No quantisation was found: are the model's linears quantised, with activations at run time?"
