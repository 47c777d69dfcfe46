# SPDX-License-Identifier: Apache-2.0
"""A graph that was rewritten, or came from a cache: its report is kept, printed graphs get notes, `tlparse` gets artifacts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch.fx import Graph

from helion_compile import compat
from helion_compile.frontend.history import current_compilation
from helion_compile.frontend.options import log
from helion_compile.frontend.verify_rollback import Checked
from helion_compile.passes.account.records import GraphRecord
from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.failure_log import log_failures
from helion_compile.reports.describing import annotate, describe, tell_caller
from helion_compile.reports.model import GraphReport
from helion_compile.reports.report import Report

__all__ = ["GraphReporter", "trace_report"]

_told: set[str] = set()  # why nothing was fused


@dataclass
class GraphReporter:
    """For ``FusionPass(on_graph=…)``.

    Attributes:
        reports: where the reports of the graphs are appended.
        training: whether the graphs are those of a forward/backward pair.
        checked: what verifying the graph found, if it was asked for.
        quiet: whether fusing nothing is what was asked for.
        found: the reports as they are before anything is verified: what holds for any values.
        graphs: those that they are of.
    """

    reports: list[GraphReport | Callable[[], list[GraphReport]]]
    training: bool
    checked: Checked | None = None
    quiet: bool = False
    found: list[GraphReport] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)

    def __call__(self, graph: Graph, record: GraphRecord) -> None:
        report = describe(graph, record, training=self.training, name=current_compilation())
        if self.found:  # Inductor comes to the graphs that a graph calls before that graph
            self.found[:] = tell_caller(self.found, self.graphs, graph)
            self.reports[-len(self.found) :] = map(self._with_checked, self.found)
        self.found.append(report)
        self.graphs.append(graph)
        if not self.quiet:
            _warn_of_nothing(report, self.reports)
        self._add(report)
        annotate(graph, report)  # last, as the graph may hold what nobody thought of: the report is kept by then

    def report_cached(self, stored: Sequence[GraphReport], read: Callable[[], list[GraphReport]] | None) -> None:
        """The graph came from Inductor's cache.

        Args:
            stored: the reports of it, as it was compiled.
            read: where that is not kept, what reads it, once somebody asks.
        """
        for report in stored:
            log.info("from Inductor's cache: %s", report.record.summary())
            for line in report.record.details():
                log.debug("%s", line)
            self._add(dataclasses.replace(report, name=current_compilation(), cached=True))
        if not stored:
            log.info("not read again: the compiled graph comes from Inductor's cache, fused as it was then; report() reads it")
            empty = GraphReport(GraphRecord(), training=self.training, name=current_compilation(), cached=True)
            trace_report(empty)
            self.reports.append(empty if read is None else functools.partial(self._read, read, empty))

    def _read(self, read: Callable[[], list[GraphReport]], empty: GraphReport) -> list[GraphReport]:
        with log_failures(log, f"reading the graph {empty.name}, from Inductor's cache,", "nothing is told of it"):
            return [self._with_checked(dataclasses.replace(each, cached=True)) for each in read()]
        return [empty]

    def _add(self, report: GraphReport) -> None:
        report = self._with_checked(report)
        self.reports.append(report)
        trace_report(report)

    def _with_checked(self, report: GraphReport) -> GraphReport:
        return report if self.checked is None else self.checked.add_to(report)


def _warn_of_nothing(report: GraphReport, earlier: Sequence[GraphReport | Callable[[], list[GraphReport]]]) -> None:
    """Warn where the first graph of a model in which something might be fused has nothing fused: once for a reason."""
    if not _asks_for_fusions(report) or any(callable(each) or _asks_for_fusions(each) or each.fused for each in earlier):
        return
    reason = Report((report,)).headline.held_back
    if not report.fused and reason not in _told:
        _told.add(reason)
        log.warning('backend="helion" fused nothing: %s helion_compile.report(compiled) tells more.', reason)


def _asks_for_fusions(report: GraphReport) -> bool:
    """Whether it holds a norm, a quantiser or a GEMM, and no kernels that the model calls itself.

    Not where a warning has said already why nothing was fused: the pass failed, or a kernel's results were wrong.
    """
    record = report.record
    warned = record.error is not None or any(refusal.kind is RefusalKind.VERIFY for refusal in record.refusals)
    return bool(record.inventory) and not report.called and not warned


def trace_report(report: GraphReport) -> None:
    """Artifacts in the structured trace (``TORCH_TRACE``), which ``tlparse`` shows beside those of torch; free without one."""
    artifacts = {
        "helion_graph_before": lambda: report.before,
        "helion_graph_after": lambda: report.after,
        "helion_report": lambda: Report((report,)).to_json(),
    }
    for name, payload in artifacts.items():
        about = {"name": name, "encoding": "json" if name == "helion_report" else "string"}
        compat.trace_structured("artifact", metadata_fn=lambda about=about: about, payload_fn=payload)
