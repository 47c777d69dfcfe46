"""A graph that has just been rewritten: its report is kept, printed graphs get notes, `tlparse` gets artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx import Graph

from helion_compile.compilations import compilation
from helion_compile.reports.describing import annotate, describe
from helion_compile.reports.model import GraphReport, Report
from passes.records import GraphRecord

if TYPE_CHECKING:
    from helion_compile.verifying.rollback import Checked

__all__ = ["Telling", "trace"]


@dataclass
class Telling:
    """For ``FusionPass(on_graph=…)``.

    Attributes:
        reports: where the reports of the graphs are appended.
        training: whether the graphs are those of a forward/backward pair.
        checked: what verifying the graph found, if it was asked for.
    """

    reports: list[GraphReport]
    training: bool
    checked: Checked | None = None

    def __call__(self, graph: Graph, record: GraphRecord) -> None:
        report = describe(graph, record, training=self.training, name=compilation())
        if self.checked is not None:
            report = self.checked.add_to(report)
        self.reports.append(report)
        annotate(graph, report)
        trace(report)

    def cached(self) -> None:
        """The graph came from a cache, so that there was nothing to read."""
        self.reports.append(GraphReport(GraphRecord(), training=self.training, name=compilation(), cached=True))


def trace(report: GraphReport) -> None:
    """Artifacts in the structured trace (``TORCH_TRACE``), which ``tlparse`` shows beside those of torch; free without one."""
    artifacts = {
        "helion_graph_before": lambda: report.before,
        "helion_graph_after": lambda: report.after,
        "helion_report": lambda: Report((report,)).to_json(),
    }
    for name, payload in artifacts.items():
        about = {"name": name, "encoding": "json" if name == "helion_report" else "string"}
        torch._logging.trace_structured("artifact", metadata_fn=lambda about=about: about, payload_fn=payload)
