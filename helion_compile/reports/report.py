"""``Report``: what happened to a model, with the forms that it can take."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from helion_compile.reports import data, html, text
from helion_compile.reports.model import ReportData

__all__ = ["Report"]


@dataclass(frozen=True)
class Report(ReportData):
    """What happened to a model, graph by graph; ``print`` it, or take it apart."""

    def to_json(self, indent: int | None = None) -> str:
        """The report as JSON, by the schema in ``helion_compile/reports/report.schema.json``."""
        return data.to_json(self, indent)

    def to_html(self, file: str | os.PathLike[str] | None = None) -> str:
        """The report as one HTML page that needs nothing else; written to ``file`` if one is given, its folder made."""
        page = html.render(self)
        if file is not None:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(page, encoding="utf-8")
        return page

    def print(self) -> None:
        """To the terminal in colours, or as plain text where the output goes to a file or a pipe."""
        text.show(self)

    def __str__(self) -> str:
        return text.render(self)
