# SPDX-License-Identifier: Apache-2.0
"""A report as plain data and JSON; ``report.schema.json`` beside this file says what is in it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import torch

from helion_compile.passes.account.records import Site, Unfused
from helion_compile.passes.account.refusal import Refusal
from helion_compile.passes.ir.graph_listing import Line
from helion_compile.passes.ir.source_location import Location
from helion_compile.reports.cause import causes
from helion_compile.reports.headline import headline
from helion_compile.reports.model import (
    Config,
    Cost,
    FusedSite,
    GraphReport,
    KernelCall,
    ReportData,
    layer_of,
    lines_with_layers,
)
from helion_compile.verify.compare import Compared

__all__ = ["VERSION", "to_data", "to_json"]

VERSION = 2  # grows when a field changes its meaning or goes; new fields do not count


def to_json(report: ReportData, indent: int | None = None) -> str:
    return json.dumps(to_data(report), indent=indent, ensure_ascii=False, allow_nan=False)


def to_data(report: ReportData) -> dict[str, Any]:
    return {
        "version": VERSION,
        "torch": torch.__version__,
        "identity": None if report.identity is None else asdict(report.identity),
        "headline": asdict(headline(report)),
        "gain": asdict(report.gain),
        "graphs": [_graph(graph, number) for number, graph in enumerate(report.graphs, start=1)],
        "causes": list(causes(report)),
    }


def _graph(graph: GraphReport, number: int) -> dict[str, Any]:
    record = graph.record
    return {
        "name": graph.name,
        "training": graph.training,
        "cached": graph.cached,
        "shared": graph.shared,
        "called_by": number + graph.caller if graph.caller else None,
        "calls": graph.calls,
        "runs": graph.runs,
        "error": record.error,
        "nodes": record.nodes,
        "seconds": record.seconds,
        "symbols": {name: asdict(symbol) for name, symbol in record.symbols.items()},
        "sites": [_fused(fused) for fused in graph.fused],
        "called": [_called(call) for call in graph.called],
        "kept": [{**_site(site), "refusal": site.refusal and _why(site.refusal)} for site in record.kept],
        "refusals": [_refusal(refusal) for refusal in record.refusals],
        "unfused": [_unfused(unfused) for unfused in record.unfused],
        "inventory": [
            {"kind": item.kind, "operation": item.operation, "count": item.count, "first": _place(item.first)}
            for item in record.inventory
        ],
        "inductor": {"before": asdict(record.inductor_before), "after": asdict(record.inductor_after)},
        "layers": [{"name": each.name, "before": asdict(each.before), "after": asdict(each.after)} for each in graph.layers],
        "before": {"code": graph.before, "lines": [_line(*each) for each in lines_with_layers(record.lines_before)]},
        "after": {"code": graph.after, "lines": [_line(*each) for each in lines_with_layers(record.lines_after)]},
    }


def _fused(fused: FusedSite) -> dict[str, Any]:
    return {
        **_site(fused.site),
        "kernel": fused.kernel,
        "config": _config(fused.config),
        "cost": _costs(fused.before, fused.after),
        "verified": [_compared(compared) for compared in fused.verified],
    }


def _called(call: KernelCall) -> dict[str, Any]:
    return {
        "kernel": call.kernel,
        "place": _place(call.location),
        "node": call.node,
        "shapes": dict(call.shapes),
        "config": _config(call.config),
    }


def _compared(compared: Compared) -> dict[str, Any]:
    """JSON has no infinity, which is how far a number is from a NaN."""
    return {name: None if value in (math.inf, -math.inf) else value for name, value in asdict(compared).items()}


def _site(site: Site) -> dict[str, Any]:
    return {
        "fusion": site.fusion,
        "place": _place(site.location),
        "layer": layer_of(site.location.module),
        "ops": list(map(str, site.ops)),
        "shapes": site.shapes,
        "merged": site.merged,
        "node": site.node,
        "nodes": list(site.nodes),
        "replaced": list(site.replaced),
    }


def _config(config: Config) -> dict[str, Any]:
    values = None if config.values is None else dict(config.values)
    return {
        "text": config.text,
        "values": values,
        "origin": config.origin,
        "us": config.us,
        "baselines": dict(config.baselines),
        "gpu": config.gpu,
    }


def _costs(before: Cost, after: Cost) -> dict[str, Any]:
    return {"before": asdict(before), "after": asdict(after)}


def _refusal(refusal: Refusal) -> dict[str, Any]:
    return {
        "candidate": refusal.candidate,
        "place": _place(refusal.location),
        "node": refusal.node,
        **_why(refusal),
        "details": {detail.name: detail.text for detail in refusal.details},
        "near": refusal.near,
        "matched": list(refusal.matched),
        "missing": list(refusal.missing),
    }


def _why(refusal: Refusal) -> dict[str, Any]:
    return {"kind": refusal.kind.value, "found": refusal.found, "remedy": refusal.remedy}


def _unfused(unfused: Unfused) -> dict[str, Any]:
    return {
        "name": unfused.name,
        "op": str(unfused.op),
        "place": _place(unfused.location),
        "node": unfused.node,
        **_why(unfused.refusal),
    }


def _line(line: Line, layer: str) -> dict[str, Any]:
    return {
        "node": line.node,
        "text": line.text,
        "module": line.location.module,
        "source": line.location.source,
        "layer": layer,
        "kernels": line.kernels,
        "bytes": line.bytes,
    }


def _place(location: Location) -> dict[str, Any]:
    return {"module": location.module, "source": location.source, "file": location.file, "line": location.line}
