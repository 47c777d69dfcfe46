"""``explain``: what was fused in a model, what was not, and why."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from passes.records import GraphRecord, Refusal, Site
from passes.source import shown_path

if TYPE_CHECKING:
    from helion_compile.inspection import Inspected

__all__ = ["FusedSite", "Report", "explain"]


@dataclass(frozen=True)
class FusedSite:
    """A rewritten chain and the kernel that runs there."""

    site: Site
    kernel: str  # "rms_norm_quant@1f3a5c77"
    config: str  # the Helion config and where it comes from, or why there is none


@dataclass(frozen=True)
class GraphReport:
    """What happened to one graph.

    Attributes:
        record: the pass's own account.
        fused: its sites with their kernels, in the order of the graph.
        training: whether the graph is part of a forward/backward pair, which keeps intermediate values.
    """

    record: GraphRecord
    fused: tuple[FusedSite, ...]
    training: bool

    @property
    def before(self) -> str:
        """The graph as Python code, as Inductor would have compiled it."""
        return _with_shown_paths(self.record.before)

    @property
    def after(self) -> str:
        """The graph as Python code, rewritten."""
        return _with_shown_paths(self.record.after)


@dataclass(frozen=True)
class Report:
    """What :func:`explain` found, graph by graph; ``print`` it, or take it apart.

    Attributes:
        graphs: one for each graph that Dynamo made of the model.
        sites: every rewritten chain.
        refusals: every candidate that was left alone, with its reason.
        kept: what was read and left to a library on purpose.
    """

    graphs: tuple[GraphReport, ...]

    @property
    def sites(self) -> list[FusedSite]:
        return [site for graph in self.graphs for site in graph.fused]

    @property
    def refusals(self) -> list[Refusal]:
        return [refusal for graph in self.graphs for refusal in graph.record.refusals]

    @property
    def kept(self) -> list[Site]:
        return [site for graph in self.graphs for site in graph.record.kept]

    def to_json(self) -> str:
        """The report as JSON: the fields of this class, of those above and of ``passes.records``."""
        return json.dumps(dataclasses.asdict(self))

    def __str__(self) -> str:
        from helion_compile.report_text import render

        return render(self)


def explain(
    model: Callable[..., Any],
    *args: Any,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
    **kwargs: Any,
) -> Report:
    """What ``torch.compile(model, backend="helion")`` does to ``model`` when it is called with these arguments.

    The model is traced and rewritten as the backend would, and run once without generating code.  Call it the way you call
    the compiled model: under ``torch.no_grad()`` for inference, since graphs traced for training keep intermediate values
    that cannot be fused away.  What is compiled already stays as it is; of functions behind a graph break Dynamo keeps one
    entry more, until ``torch.compiler.reset()``.

    Args:
        model: a module or function; of a compiled one, what was compiled.
        *args, **kwargs: its arguments.
        mode, options, dynamic: as for ``torch.compile``.

    Raises:
        TypeError: ``model`` cannot be called.
        ValueError, TypeError: an option has a value it cannot have.
    """
    from helion_compile.inspection import inspect

    if not callable(model):
        raise TypeError(f"explain() takes a module or a function and its arguments; got a {type(model).__name__}.")
    model = getattr(model, "_torchdynamo_orig_callable", getattr(model, "_orig_mod", model))
    found = inspect(model, args, kwargs, mode=mode, options=options, dynamic=dynamic)
    return Report(tuple(GraphReport(graph.record, tuple(_fused(graph)), graph.training) for graph in found))


def _fused(inspected: Inspected) -> Iterator[FusedSite]:
    from helion_compile import registry
    from helion_compile.hop import helion_kernel

    nodes = {node.name: node for node in inspected.module.graph.nodes}
    order = list(nodes)
    for site in sorted(inspected.record.sites, key=lambda site: order.index(site.node)):
        node = nodes[site.node]
        while node.target is not helion_kernel:
            # The site names the first node of the replacement, a view of the input where the model has one.
            node = next(user for user in node.users if user.name in nodes)
        kernel = registry.find(node.kwargs["kernel"])
        values = [arg.meta["val"] if isinstance(arg, torch.fx.Node) else arg for arg in node.args]
        yield FusedSite(site, kernel.key, _config(kernel, values))


def _config(kernel: Any, values: list[Any]) -> str:
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if not all(tensor.is_cuda for tensor in tensors):
        return f"no GPU: its reference runs on {tensors[0].device}"
    if any(isinstance(size, torch.SymInt) for tensor in tensors for size in tensor.shape):
        return "picked at run time for each size"
    pick = kernel.pick(tuple(values))
    return f"{dict(pick.config) if pick.config else 'default'} ({pick.sentence})"


def _with_shown_paths(code: str) -> str:
    return re.sub(r"(?<=# File: )[^:]+", lambda file: shown_path(file.group()), code)
