"""The pass as vLLM takes passes; the one module of ours that needs vLLM to be imported."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import vllm
from torch.fx import Graph

from helion_compile import passes
from helion_compile.compat import InductorPass
from helion_compile.configs.gpu import Gpu
from helion_compile.passes.account.records import GraphRecord
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.compat import VLLM
from helion_compile.passes.ir.values import VIEWS
from helion_compile.passes.match.chain import Chain
from helion_compile.passes.patterns.custom_ops.op_call import get_op_name
from helion_compile.vllm import hooks
from helion_compile.vllm.identity import gpu as found_gpu
from helion_compile.vllm.identity import identity
from helion_compile.vllm.log import log, off
from helion_compile.vllm.options import checked

__all__ = ["FusionPass"]

# vLLM's fusion of attention and the quantiser behind it saves more than ours can.
_ATTENTION = frozenset({"vllm.unified_attention_with_output.default", "vllm.unified_mla_attention_with_output.default"})


class FusionPass(InductorPass):
    """Rewrites vLLM's graphs as ``backend="helion"`` does Inductor's; see the package's text for where it goes.

    A fusion is used where the config tables have rows for the GPU, or one of its architecture, for all of its kernels.  A
    pass that fails leaves the graph as it was.  Pickled, copied or made anew, it is the same pass to every cache.

    Args:
        gpu: the GPU whose tables count; by default the one that vLLM uses.
        untuned: use all fusions, those without configs for the GPU too.
        **options: ``numerics``, ``disable`` and ``only``, as for ``backend="helion"``.

    Raises:
        ValueError, TypeError: an option that there is not, or one with a value it cannot have.
    """

    def __init__(self, *, gpu: Gpu | None = None, untuned: bool = False, **options: Any):
        self.gpu = gpu
        self.untuned = untuned
        self.options = options
        self._checked = checked(options)
        self._fuse: passes.FusionPass | None = None  # made for the first graph: it imports Helion
        self.records: list[GraphRecord] = []
        hooks.install()

    def __call__(self, graph: Graph) -> None:
        hooks.install()
        try:
            self._sort_nodes(graph)
            if self._fuse is None:
                self._fuse = self._make_pass()
            self._fuse(graph)
        except Exception as error:
            if self._checked.strict:
                raise
            off("the fusions are off", f"{type(error).__name__}: {error}")

    def uuid(self) -> str:
        """See :func:`identity`."""
        hooks.install()
        return self._uuid

    @functools.cached_property
    def _uuid(self) -> str:
        return identity(self.options | {"untuned": self.untuned}, self.gpu)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self.gpu, self.untuned, self.options)

    def __deepcopy__(self, memo: dict) -> FusionPass:
        return self

    def _sort_nodes(self, graph: Graph) -> None:
        """vLLM's pattern matcher leaves nodes in front of what they read, and sorts after the last pass only."""
        from helion_compile.compat import stable_topological_sort

        stable_topological_sort(graph)

    def _make_pass(self) -> passes.FusionPass:
        from helion_compile.fusions import fusions

        if vllm.__version__ not in VLLM:
            log.info(
                "helion_compile: vLLM %s was not tested with; operators with the names and arguments that they have in %s are "
                "read, others stay",
                vllm.__version__,
                " and ".join(VLLM),
            )
        chosen = self._checked
        known = fusions(chosen.numerics)
        passes.FusionPass(known, disable=chosen.disable, only=chosen.only)  # a name that there is not is an error
        wanted = [
            fusion
            for fusion in known
            if fusion.name not in chosen.disable and (chosen.only is None or fusion.name in chosen.only)
        ]
        return passes.FusionPass(
            [
                dataclasses.replace(fusion, check=functools.partial(_check, fusion.check))
                for fusion in self._keep_tuned(wanted)
            ],
            strict=chosen.strict,
            on_record=self._record,
            log=self._make_graph_log(),
        )

    def _keep_tuned(self, wanted: list[passes.Fusion]) -> list[passes.Fusion]:
        """Those of the fusions all of whose kernels have configs for the GPU."""
        from helion_compile.fusions import CATALOGUE

        gpu = self.gpu or found_gpu()
        if gpu is None:
            off("the fusions are off", "vLLM runs on no NVIDIA GPU here")
            return []
        if self.untuned:
            return wanted
        kernels = {module.fusion(exact=False).name: module.KERNELS for module in CATALOGUE}
        lacking = {fusion.name: [k.short_name for k in kernels[fusion.name] if not k.table.covers(gpu)] for fusion in wanted}
        if any(lacking.values()):
            names = dict.fromkeys(name for missing in lacking.values() for name in missing)
            off(
                f"{', '.join(name for name, missing in lacking.items() if missing)} left to vLLM",
                f"no table has configs of {', '.join(names)} for {gpu.name} or another {gpu.arch}; "
                f"`python -m helion_compile tune {' '.join(names)}` makes one",
            )
        return [fusion for fusion in wanted if not lacking[fusion.name]]

    def _record(self, record: GraphRecord) -> None:
        self.records.append(record)
        if record.error:
            off("a graph is compiled without fusions", record.error)
        for refusal in record.refusals:
            if refusal.kind is RefusalKind.UNKNOWN_OPERATOR:
                off("operators stay as this vLLM has them", str(refusal))

    @staticmethod
    def _make_graph_log() -> logging.Logger:
        """A model has dozens of graphs: only who asks for details is told of each."""
        graphs = log.getChild("graphs")
        graphs.setLevel(logging.NOTSET if log.isEnabledFor(logging.DEBUG) else logging.ERROR)
        return graphs


def _make(gpu: Gpu | None, untuned: bool, options: dict[str, Any]) -> FusionPass:
    return FusionPass(gpu=gpu, untuned=untuned, **options)


def _check(check: Callable[[Chain], Refusal | None], chain: Chain) -> Refusal | None:
    x = chain.inputs.get("x")
    while x is not None and x.target in VIEWS:
        x = x.args[0]
    if x is not None and get_op_name(x) in _ATTENTION:
        return chain.refuse(
            RefusalKind.READER,
            "x comes from attention in the same graph, whose fusion with the quantiser is left to vLLM",
            "an x that comes from elsewhere fuses",
        )
    return check(chain)
