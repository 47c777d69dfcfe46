"""A report as one HTML page: data, style and script in the file, nothing from a network."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helion_compile.reports.cause import candidates, causes
from helion_compile.reports.data import to_data

if TYPE_CHECKING:
    from jinja2 import Template

    from helion_compile.reports.model import ReportData

__all__ = ["render"]

_FOLDER = Path(__file__).parent / "page"


def render(report: ReportData) -> str:
    """The page."""
    data = to_data(report)
    for graph in data["graphs"]:
        for side, names in (("before", "replaced"), ("after", "nodes")):
            graph[side] = _lines(graph[side]["lines"], graph["sites"], names)
    # "<" could end the element that holds the data, or begin a comment in it.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return _template().render(
        data=text, style=style, script=script, causes=list(causes(report)), candidates=list(candidates(report))
    )


def _lines(lines: Iterable[dict[str, Any]], sites: list[dict[str, Any]], names: str) -> list[list[Any]]:
    """Each line as [node, text, module, source, the number of its site or -1]: there can be tens of thousands."""
    owners = {node: number for number, site in enumerate(sites) for node in site[names]}
    return [[line["node"], line["text"], line["module"], line["source"], owners.get(line["node"], -1)] for line in lines]


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader

    # Style and script are ours and the data is escaped above; all else that is put into the page is escaped here.
    return Environment(loader=FileSystemLoader(_FOLDER), autoescape=True).get_template("report.html.jinja")
