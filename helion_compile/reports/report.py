# SPDX-License-Identifier: Apache-2.0
"""``Report``: what happened to a model, with the forms that it can take."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path

from helion_compile.errors import check_path, check_type, truncate
from helion_compile.reports import data, html, text
from helion_compile.reports.headline import Headline, headline
from helion_compile.reports.model import GraphReport, ReportData

__all__ = ["Report"]

_WIDEST = 80  # spaces


@dataclass(frozen=True)
class Report(ReportData):
    """What happened to a model, graph by graph; ``print`` it, or take it apart."""

    def __post_init__(self) -> None:
        right = isinstance(self.graphs, tuple) and all(isinstance(graph, GraphReport) for graph in self.graphs)
        if not right:
            raise TypeError(
                f"Report(graphs) is {truncate(self.graphs)}; explain and report make one of a tuple of GraphReports."
            )

    @property
    def headline(self) -> Headline:
        """The story in three lines: what was gained over Inductor, what held most back, what to do next."""
        return headline(self)

    def to_json(self, indent: int | None = None) -> str:
        """The report as JSON, by the schema in ``helion_compile/reports/report.schema.json``."""
        check_type("report.to_json(indent=…)", indent, (int, type(None)), "a number of spaces, or None")
        if indent is not None and indent > _WIDEST:
            raise ValueError(f"report.to_json(indent=…) is {truncate(indent)}; give at most {_WIDEST} spaces, or None.")
        return data.to_json(self, indent)

    def to_html(self, file: str | os.PathLike[str] | None = None) -> str:
        """The report as one HTML page that needs nothing else; written to ``file`` if one is given, its folder made."""
        check_path("report.to_html(file=…)", file, (str, os.PathLike, type(None)), "a path, such as 'report.html', or None")
        page = html.render(self)
        if file is not None:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(page, encoding="utf-8")
        return page

    def print(self) -> None:
        """To the terminal in colours, or as plain text where the output goes to a file or a pipe."""
        text.show(self)

    def _repr_html_(self) -> str:
        """In a notebook: the three lines, and the text to open.  ``to_html`` makes the page, which has a script."""
        told = "".join(f"<p><b>{name}</b> {escape(line)}</p>" for name, line in self.headline.lines)
        return f"{told}<details><summary>all of it</summary><pre>{escape(str(self))}</pre></details>"

    def __str__(self) -> str:
        return text.render(self)
