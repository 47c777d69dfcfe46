# SPDX-License-Identifier: Apache-2.0
"""Graphs as Inductor's post-grad hook gets them, from torch.compile, without generating code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx, fake_tensor_prop
from torch._inductor.fx_passes.post_grad import reorder_for_locality, view_to_reshape

from tests.support.interpret import spread

__all__ = ["Captured", "capture", "runnable", "scaled_mm"]


class Captured:
    """A compiled callable, and the graph modules that the hook saw, rewritten by ``graph_pass`` if one was given."""

    def __init__(self, function: Callable[..., Any], graph_pass: Callable | None, dynamic: bool | None):
        self.modules: list[torch.fx.GraphModule] = []
        self.arguments: list[Any] = []  # of the last call of the last graph, in the order of its placeholders
        self._pass = graph_pass
        torch._dynamo.reset()
        self._compiled = torch.compile(function, backend=self._backend, dynamic=dynamic, fullgraph=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), config.patch(fx_graph_cache=False):
            return self._compiled(*args, **kwargs)

    @property
    def graph(self) -> torch.fx.Graph:
        (module,) = self.modules
        return module.graph

    def _backend(self, gm: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        return compile_fx(gm, inputs, inner_compile=self._inner)

    def _inner(self, gm: torch.fx.GraphModule, inputs: list[Any], **kwargs: Any) -> Callable[..., Any]:
        # The steps of compile_fx's own inner function up to post_grad_custom_pre_pass.
        view_to_reshape(gm)
        fake_tensor_prop(gm, inputs)
        gm.graph.eliminate_dead_code()
        reorder_for_locality(gm.graph)
        if self._pass:
            self._pass(gm.graph)
        gm.recompile()
        self.modules.append(gm)
        forward = runnable(gm).forward

        def run(*args: Any) -> Any:
            self.arguments = list(args)
            return forward(*args)

        return make_boxed_func(run)


def scaled_mm(a, b, a_scale, b_scale, bias=None, scale_result=None, out_dtype=None, use_fast_accum=False):
    """``aten._scaled_mm`` in plain torch; torch 2.11 has no row-wise one on CPU."""
    out = (a.float() * a_scale) @ (b.float() * b_scale)
    return (out if bias is None else out + bias).to(out_dtype)


def _of_blocks(a, b, a_scale, b_scale, *others, **more):
    """``scaled_mm`` whose scales may belong to blocks, which no torch has on CPU."""
    return scaled_mm(a, b, spread(a_scale, a), spread(b_scale, b), *others, **more)


def _second(a, b, a_scales, _, __, b_scales, ___, ____, bias, out_dtype, *others):
    """``aten._scaled_mm_v2`` likewise."""
    return _of_blocks(a, b, *a_scales, *b_scales, bias, out_dtype=out_dtype)


_PLAIN = {torch.ops.aten._scaled_mm.default: _of_blocks, torch.ops.aten._scaled_mm_v2.default: _second}


def runnable(gm: torch.fx.GraphModule) -> torch.fx.GraphModule:
    copied = copy.deepcopy(gm)
    for node in copied.graph.nodes:
        node.target = _PLAIN.get(node.target, node.target)
    copied.recompile()
    return copied


def capture(
    function: Callable[..., Any], *args: Any, graph_pass: Callable | None = None, dynamic: bool | None = False
) -> Captured:
    """Compile ``function`` for ``args`` up to the hook, and call it once."""
    captured = Captured(function, graph_pass, dynamic)
    captured(*args)
    return captured
