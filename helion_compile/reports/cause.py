# SPDX-License-Identifier: Apache-2.0
"""Where nothing was fused: what there would have been, and the likeliest cause, from what the graphs hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from helion_compile.passes.account.op_counts import Found
from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.semantics import Quantize

if TYPE_CHECKING:
    from helion_compile.reports.model import ReportData

__all__ = ["candidates", "causes"]


def causes(report: ReportData) -> Iterator[str]:
    """Sentences, the likeliest cause first; none where something was fused and nothing is odd."""
    if any(graph.unread for graph in report.graphs):
        yield (
            "A graph came from Inductor's cache, fused as it was then; what was told of it then is not kept, and it could not "
            "be read anew: explain() reads it, and so does compiling with TORCHINDUCTOR_FORCE_DISABLE_CACHES=1."
        )
    if any(graph.training for graph in report.graphs):
        yield "A graph for training keeps intermediate values for backward: call under torch.no_grad() for inference."
        return
    if not report.graphs:
        yield report.note or (
            "There is no graph: the model calls no torch operation that Dynamo traces, or it has not been called yet, or what "
            "was compiled before for another model by an equal call of torch.compile serves it."
        )
        return
    if any(graph.unread or graph.record.error for graph in report.graphs):
        return
    if left_out := list(dict.fromkeys(name for graph in report.graphs for name in graph.record.left_out)):
        yield (
            f"Left out as asked: {', '.join(left_out)}. The options 'disable' and 'only' do that, and HELION_COMPILE_DISABLE "
            f"in the environment."
        )
    if not report.sites:
        yield from _nothing_fused(report)
    elif not any(item.kind == "quantize" for graph in report.graphs for item in graph.record.inventory):
        yield _not_quantised(report)


def candidates(report: ReportData) -> Iterator[str]:
    """Where nothing was fused, a line for each kind of operation that chains are built around."""
    if report.sites:
        return
    found = [item for graph in report.graphs for item in graph.record.inventory]
    for kind in ("norm", "quantize", "matmul"):
        items = [item for item in found if item.kind == kind]
        listed = "; ".join(f"{item.count} x {item.operation}, first at {item.first}" for item in items) or "none"
        yield f"{kind}-like: {listed}"


def _nothing_fused(report: ReportData) -> Iterator[str]:
    found = [item for graph in report.graphs for item in graph.record.inventory]
    if report.refusals:
        group, count = Counter(refusal.group for refusal in report.refusals).most_common(1)[0]
        first = next(refusal for refusal in report.refusals if refusal.group == group)
        yield f"Every candidate was refused, {count} of {len(report.refusals)} as this one: {first}."
        return
    untuned = [site for site in report.kept if site.refusal and site.refusal.kind is RefusalKind.UNTUNED]
    if untuned:
        names = _counted(Counter(site.fusion for site in untuned))
        yield f"{names} kept, the first of them because: {untuned[0].refusal}."
        return
    if report.unfused:
        names = _counted(Counter(unfused.name for unfused in report.unfused))
        yield f"{names} unfused, the first of them because: {report.unfused[0].refusal}."
        if any(isinstance(unfused.op, Quantize) for unfused in report.unfused):
            return
    quantisers = [item for item in found if item.kind == "quantize"]
    casts = [item for item in quantisers if item.cast == "to"]
    if opaque := [item for item in quantisers if not item.cast]:
        yield f"Quantisation happens inside {_named(opaque)}, an operation of its own that no pattern looks into."
    elif not casts and any(item.cast == "from" for item in quantisers):
        yield (
            "No quantisation of activations was found, only of weights: they are converted back before the product. Quantise "
            "the linears with activations at run time."
        )
    elif not casts:
        yield _not_quantised(report)
    else:
        yield f"There are {_named(casts)}, but nothing that scales values into their range before."


def _not_quantised(report: ReportData) -> str:
    products = [item for graph in report.graphs for item in graph.record.inventory if item.kind == "matmul"]
    plain = f", and the products are {_named(products)}" if products else ""
    return f"No quantisation was found{plain}: are the model's linears quantised, with activations at run time?"


def _named(items: Iterable[Found]) -> str:
    return ", ".join(f"{item.count} x {item.operation}" for item in items)


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in names.items())
