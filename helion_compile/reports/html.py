# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML page: data, style and script in the file, nothing from a network."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helion_compile.reports.cause import candidates, causes
from helion_compile.reports.data import to_data
from helion_compile.reports.grouping import (
    group_called,
    group_fused,
    group_kept,
    group_layers,
    group_refusals,
    group_unfused,
    name_modules,
)
from helion_compile.reports.headline import headline, identity_text
from helion_compile.reports.model import Cost, Layer
from helion_compile.reports.text import tell_calls

if TYPE_CHECKING:
    from jinja2 import Template

    from helion_compile.reports.model import GraphReport, ReportData

__all__ = ["render"]

_FOLDER = Path(__file__).parent / "page"


def render(report: ReportData) -> str:
    """The page."""
    data = to_data(report)
    for number, (graph, of) in enumerate(zip(data["graphs"], report.graphs, strict=True), start=1):
        graph["told"] = tell_calls(of, number)
        for side, names in (("before", "replaced"), ("after", "nodes")):
            graph[side] = _lines(graph[side]["lines"], graph["sites"], names)
        graph["groups"] = _groups(of)
    data["layers"] = _layers(report)
    # "<" could end the element that holds the data, or begin a comment in it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    style, *scripts = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "rows.js", "report.js"))
    told = headline(report)
    return _template().render(
        data=text,
        style=style,
        script="\n".join(scripts),
        title=f"{report.identity.model}: helion-compile report" if report.identity else "helion-compile report",
        identity=identity_text(report.identity) if report.identity else "",
        headline=told.lines,
        causes=[sentence for sentence in causes(report) if sentence != told.held_back],
        candidates=list(candidates(report)),
    )


def _groups(graph: GraphReport) -> dict[str, list[dict[str, Any]]]:
    """What is alike in many layers: the numbers of those that one row is for, and what it calls their modules."""
    record = graph.record
    kinds: dict[str, tuple[list[list[Any]], Sequence[Any], Callable[[Any], str]]] = {
        "sites": (group_fused(graph), graph.fused, lambda fused: fused.site.location.module),
        "called": (group_called(graph), graph.called, lambda call: call.location.module),
        "refusals": (group_refusals(graph), record.refusals, lambda refusal: refusal.location.module),
        "kept": (group_kept(graph), record.kept, lambda site: site.location.module),
        "unfused": (group_unfused(graph), record.unfused, lambda unfused: unfused.location.module),
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, (groups, items, module) in kinds.items():
        numbers = {id(item): number for number, item in enumerate(items)}
        found[kind] = [
            {"of": [numbers[id(item)] for item in group], "name": name_modules(map(module, group))} for group in groups
        ]
    return found


def _layers(report: ReportData) -> list[dict[str, Any]]:
    """The layers of all graphs; those that cost the same are one, with what it is called."""
    totals: dict[str, Layer] = {}
    for layer in (layer for graph in report.graphs for layer in graph.layers):
        sofar = totals.get(layer.name, Layer(layer.name, Cost(), Cost()))
        totals[layer.name] = Layer(layer.name, sofar.before + layer.before, sofar.after + layer.after)
    return [
        {
            "name": name_modules(layer.name for layer in group) if group[0].name else "outside the layers",
            "layers": [layer.name for layer in group],
            "before": asdict(group[0].before),
            "after": asdict(group[0].after),
        }
        for group in group_layers(totals.values())
    ]


def _lines(lines: Iterable[dict[str, Any]], sites: list[dict[str, Any]], names: str) -> list[list[Any]]:
    """Each line as [node, text, module, source, the number of its site or -1]: there can be tens of thousands."""
    owners = {node: number for number, site in enumerate(sites) for node in site[names]}
    return [[line["node"], line["text"], line["module"], line["source"], owners.get(line["node"], -1)] for line in lines]


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader

    # Style and script are ours and the data is escaped above; all else that is put into the page is escaped here.
    return Environment(loader=FileSystemLoader(_FOLDER), autoescape=True).get_template("report.html.jinja")
