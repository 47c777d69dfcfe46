# SPDX-License-Identifier: Apache-2.0
"""From what the pass recorded, and the graph it left, to what a report says of that graph."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from helion_compile.compat import unset_fake_temporarily
from helion_compile.configs.gpu import has_kernels
from helion_compile.definitions import registry
from helion_compile.graph.hop import helion_kernel
from helion_compile.passes.account.records import GraphRecord
from helion_compile.passes.ir.dynamic_sizes import traced_size
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import tensor_text
from helion_compile.reports.model import Config, Cost, FusedSite, GraphReport, KernelCall

__all__ = ["annotate", "describe", "list_called", "tell_caller"]


def describe(graph: Graph, record: GraphRecord, *, training: bool = False, name: str = "") -> GraphReport:
    """The report of one graph, which has just been rewritten and still has its fake values."""
    return GraphReport(record, tuple(_fused(graph, record)), training, name, called=tuple(_called(graph, record)))


def list_called(module: Any) -> list[GraphModule]:
    """The graphs that the graph of ``module`` calls, once for each place that does: repeated regions, branches, loops."""
    graph = getattr(module, "graph", None)
    held = [(node, getattr(module, str(node.target), None)) for node in graph.find_nodes(op="get_attr")] if graph else []
    return [inner for node, inner in held if isinstance(inner, GraphModule) for _ in node.users]


def tell_caller(reports: Sequence[GraphReport], graphs: Sequence[Graph], caller: Graph) -> list[GraphReport]:
    """``reports`` of ``graphs``, whose next one is ``caller``, with how often it calls them."""
    calls = Counter(id(inner.graph) for inner in list_called(caller.owning_module))
    told = list(reports)
    repeats: dict[int, int] = {}  # of graphs that it calls, and of what these call
    for index in reversed(range(len(told))):
        if count := calls.get(id(graphs[index])):
            told[index] = dataclasses.replace(told[index], caller=len(told) - index, calls=count)
            repeats[index] = count
        elif told[index].caller and index + told[index].caller in repeats:
            repeats[index] = repeats[index + told[index].caller]
    return [report.repeated(repeats.get(index, 1)) for index, report in enumerate(told)]


def annotate(graph: Graph, report: GraphReport) -> None:
    """Write kernel and config beside the nodes, where printed graphs (``TORCH_LOGS="post_grad_graphs"``) show them."""
    nodes = {node.name: node for node in graph.nodes}
    for fused in report.fused:
        node, location = nodes[fused.site.node], fused.site.location
        made = {
            "kernel": fused.kernel.partition("@")[0],
            "config": _short(fused.config),
            "for": location.module or location.source,
        }
        node.meta["custom"] = {**node.meta.get("custom", {}), **made}


def _short(config: Config) -> str:
    """ "block_sizes=[1] num_warps=8"; with dynamic sizes also that this is for the traced ones."""
    if config.values is None:
        return {"reference": "none, its reference runs", "run time": "picked at run time"}.get(config.origin, "default")
    values = " ".join(f"{key}={value}" for key, value in config.values.items())
    return f"{values} for the traced sizes, picked at run time" if config.origin == "run time" else values


def _fused(graph: Graph, record: GraphRecord) -> Iterator[FusedSite]:
    nodes = {node.name: node for node in graph.nodes}
    order = {name: index for index, name in enumerate(nodes)}
    before = {line.node: line for line in record.lines_before}
    after = {line.node: line for line in record.lines_after}
    for site in sorted(record.sites, key=lambda site: order[site.node]):
        # A fusion that is built of several nodes is told by its kernel, which may not be the first of them.
        calls = [nodes[name] for name in site.nodes or (site.node,) if nodes[name].target is helion_kernel]
        kernel, config = _kernel(calls[0]) if calls else (str(nodes[site.node].target), Config("not a Helion kernel"))
        yield FusedSite(
            site,
            kernel,
            config,
            Cost.of(before[name] for name in site.replaced if name in before),
            Cost.of(after[name] for name in site.nodes if name in after),
        )


def _called(graph: Graph, record: GraphRecord) -> Iterator[KernelCall]:
    """The calls that the model itself makes: those that no site made."""
    ours = {name for site in record.sites for name in site.nodes or (site.node,)}
    for node in graph.find_nodes(op="call_function", target=helion_kernel):
        if node.name not in ours:
            kernel, config = _kernel(node)
            named = zip(registry.find_kernel(node.kwargs["kernel"]).signature.parameters, node.args, strict=False)
            shapes = {name: tensor_text(arg) for name, arg in named if isinstance(arg, Node)}
            yield KernelCall(kernel, Location.of(node), node.name, {**shapes, "out": tensor_text(node)}, config)


def _kernel(node: Node) -> tuple[str, Config]:
    kernel = registry.find_kernel(node.kwargs["kernel"])
    values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in node.args]
    return kernel.short_key, config_of(kernel, values)


def config_of(kernel: Any, values: list[Any]) -> Config:
    """The config with which a kernel runs on these fake arguments."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if not all(has_kernels(tensor.device.type) for tensor in tensors):
        return Config(f"no GPU: its reference runs on {tensors[0].device}", origin="reference")
    dynamic = any(isinstance(size, torch.SymInt) for tensor in tensors for size in tensor.shape)
    sized = _as_traced(values) if dynamic else values
    if sized is None:
        return Config("picked at run time for each size", origin="run time")
    pick = kernel.pick(tuple(sized))
    text = f"{dict(pick.config) if pick.config else 'default'} ({pick.sentence})"
    if dynamic:
        text = f"picked at run time for each size; for the traced ones {text}"
    row = pick.row
    known = row is not None and pick.origin in ("exact", "bucketed") and not pick.other_gpu
    us, baselines = (row.us, row.baselines) if row is not None and known else (None, {})
    return Config(text, pick.config, "run time" if dynamic else pick.origin, us, baselines, pick.gpu.name)


def _as_traced(values: list[Any]) -> list[Any] | None:
    """The arguments with the sizes that were traced, as tensors without memory: asking symbols for theirs would add guards."""

    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if any(traced_size(size) is None for tensor in tensors for size in tensor.shape):
        return None
    with unset_fake_temporarily():
        return [
            torch.empty_strided([*map(traced_size, v.shape)], [*map(traced_size, v.stride())], dtype=v.dtype, device="meta")
            if isinstance(v, torch.Tensor)
            else v
            for v in values
        ]
