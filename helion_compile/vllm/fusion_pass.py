# SPDX-License-Identifier: Apache-2.0
"""The pass as vLLM takes passes; the one module of ours that needs vLLM to be imported."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
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
from helion_compile.passes.match.chain import Chain
from helion_compile.passes.patterns.custom_ops.op_call import get_op_name
from helion_compile.passes.patterns.custom_ops.vllm_table import QUANTISING_MATMULS
from helion_compile.passes.semantics import Quantize
from helion_compile.vllm import attention, batch_invariance, hooks
from helion_compile.vllm.identity import gpu as found_gpu
from helion_compile.vllm.identity import identity
from helion_compile.vllm.log import log, note, off
from helion_compile.vllm.options import checked

__all__ = ["FusionPass"]


class FusionPass(InductorPass):
    """Rewrites vLLM's graphs as ``backend="helion"`` does Inductor's; see the package's text for where it goes.

    A chain is fused where rows of its scheme, or a measurement of the default configs, speak for the kernel on this GPU's
    architecture.  A pass that fails leaves the graph as it was.  Pickled, copied or made anew, it is the same pass to every
    cache.

    Args:
        gpu: the GPU that vLLM runs on, a part of the key of its caches; by default the one that is found.
        config: the ``VllmConfig`` whose own passes come behind this one; None where none of them does.
        untuned: fuse also where no table has the case for this GPU.
        **options: ``numerics``, ``disable`` and ``only``, as for ``backend="helion"``.

    Raises:
        ValueError, TypeError: an option that there is not, or one with a value it cannot have.
    """

    def __init__(self, *, gpu: Gpu | None = None, config: Any = None, untuned: bool = False, **options: Any):
        self.gpu = gpu
        self.config = config
        self.untuned = untuned
        self.options = options
        self._checked = checked(options)
        self._fuse: passes.FusionPass | None = None  # made for the first graph: it imports Helion
        self.records: list[GraphRecord] = []
        hooks.install()

    def __call__(self, graph: Graph) -> None:
        hooks.install()
        try:
            self._tell_of_quantising_matmuls(graph)
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
        from helion_compile.frontend.options import DISABLE  # imports Helion

        others: dict[str, Any] = {"untuned": self.untuned, "batch invariant": batch_invariance.is_asked_for()}
        others |= {DISABLE: os.environ.get(DISABLE, "")}
        return identity(self.options | others, self.gpu)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self.gpu, self.untuned, self.options)

    def __deepcopy__(self, memo: dict) -> FusionPass:
        return self

    def _sort_nodes(self, graph: Graph) -> None:
        """vLLM's pattern matcher leaves nodes in front of what they read, and sorts after the last pass only."""
        from helion_compile.compat import stable_topological_sort

        stable_topological_sort(graph)

    def _tell_of_quantising_matmuls(self, graph: Graph) -> None:
        names = {(get_op_name(node) or "").removesuffix(".default") for node in graph.nodes}
        for name in names & set(QUANTISING_MATMULS):
            note(
                f"{name} takes 16 bits and quantises them itself, so there is no quantiser to fuse with a norm or an "
                "activation; with VLLM_BLOCKSCALE_FP8_GEMM_FLASHINFER=0 vLLM takes a GEMM that reads fp8, which may be the "
                "slower way"
            )

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
        known = fusions(chosen.numerics, self.untuned)
        passes.FusionPass(known, disable=chosen.disable, only=chosen.only)  # a name that there is not is an error
        wanted = [
            fusion
            for fusion in known
            if fusion.name not in chosen.disable and (chosen.only is None or fusion.name in chosen.only)
        ]
        if (self.gpu or found_gpu()) is None:
            off("the fusions are off", "vLLM runs on no NVIDIA GPU here")
            wanted = []
        if batch_invariance.is_asked_for():
            wanted = batch_invariance.drop_sums(wanted)
        return passes.FusionPass(
            [dataclasses.replace(fusion, check=functools.partial(self._check, fusion.check)) for fusion in wanted],
            strict=chosen.strict,
            on_record=self._record,
            log=self._make_graph_log(),
        )

    def _record(self, record: GraphRecord) -> None:
        self.records.append(record)
        if record.error:
            off("a graph is compiled without fusions", record.error)
        for refusal in record.refusals:
            if refusal.kind is RefusalKind.UNKNOWN_OPERATOR:
                off("operators stay as this vLLM has them", str(refusal))
        for kept in record.kept:
            if kept.refusal is not None and kept.refusal.kind is RefusalKind.UNTUNED:
                off(f"{kept.fusion} left to vLLM where no table has the case", str(kept.refusal))

    def _check(self, check: Callable[[Chain], Refusal | None], chain: Chain) -> Refusal | None:
        """A fusion's own check, and what holds inside vLLM alone."""
        op = chain.matches[-1].op
        if self.config is not None and isinstance(op, Quantize) and attention.comes_from_attention(chain.inputs.get("x")):
            if attention.vllm_fuses(op, self.config):
                return chain.refuse(
                    RefusalKind.READER,
                    "x comes from attention in the same graph, whose fusion with the quantiser is left to vLLM",
                    "with vLLM's fuse_attn_quant off it fuses",
                )
        return check(chain)

    @staticmethod
    def _make_graph_log() -> logging.Logger:
        """A model has dozens of graphs: only who asks for details is told of each."""
        graphs = log.getChild("graphs")
        graphs.setLevel(logging.NOTSET if log.isEnabledFor(logging.DEBUG) else logging.ERROR)
        return graphs


def _make(gpu: Gpu | None, untuned: bool, options: dict[str, Any]) -> FusionPass:
    return FusionPass(gpu=gpu, untuned=untuned, **options)
