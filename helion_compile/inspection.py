"""Tracing a model up to the point where ``backend="helion"`` hands its graphs to Inductor's code generation.

What comes after, compiling kernels, takes most of torch.compile's time and changes nothing of what was fused.  The graphs
are run as they are, node by node.

Private interfaces: the first steps of ``compile_fx``'s inner function; tested with torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import contextlib
import logging
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule

from helion_compile.backend import Options, in_turn, inductor
from helion_compile.floats import fix_eps
from passes.records import GraphRecord

__all__ = ["Inspected", "inspect", "inspecting_backend"]

log = logging.getLogger("helion_compile.explain")


@dataclass
class Inspected:
    """One graph as the pass left it."""

    record: GraphRecord
    module: GraphModule
    training: bool  # part of a forward/backward pair


def inspect(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
) -> list[Inspected]:
    """The graphs of ``model(*args, **kwargs)``, which is run once.

    What Dynamo knows of the model from earlier compilations is not used, nor added to but for functions behind a graph break:
    those keep an entry of this trace, which counts towards their recompile limit until ``torch.compiler.reset()``.
    """

    def call(self, *args, **kwargs):
        return self(*args, **kwargs)

    # Dynamo keeps compiled graphs with the code object of the outermost function: give it one that dies with this call.
    # Only functions behind a graph break are outermost themselves.
    fresh = types.FunctionType(call.__code__.replace(), globals())
    found: list[Inspected] = []
    compiled = torch.compile(fresh, backend=inspecting_backend(found, mode, options), dynamic=dynamic)
    # Sizes of earlier calls, of this function or with other models, must not make today's dynamic.
    with _as_written(model), torch._dynamo.config.patch(automatic_dynamic_shapes=False, recompile_limit=1000):
        compiled(model, *args, **kwargs)
    return found


@contextlib.contextmanager
def _as_written(model: Callable[..., Any]) -> Iterator[None]:
    """Within it, modules that were compiled in place (``module.compile()``) run as they are written."""
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    compiled = [(module, module._compiled_call_impl) for module in modules if module._compiled_call_impl is not None]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, implementation in compiled:
            module._compiled_call_impl = implementation


def inspecting_backend(
    found: list[Inspected], mode: str | None = None, options: Mapping[str, Any] | None = None
) -> Callable[[GraphModule, Sequence[Any]], Callable[..., Any]]:
    """A backend for ``torch.compile`` that rewrites graphs as ``backend="helion"`` does and appends them to ``found``."""
    from functorch.compile import make_boxed_func
    from torch._inductor.compile_fx import compile_fx

    ours, theirs = Options.split(options)
    fusion_pass = ours.fusion_pass(log, keep_code=True)
    compiler = inductor(mode, theirs)
    hook = in_turn(compiler, fusion_pass)

    def stop_before_code(module: GraphModule, inputs: Sequence[Any], **flags: Any) -> Callable[..., Any]:
        from torch._inductor.compile_fx import fake_tensor_prop
        from torch._inductor.fx_passes.post_grad import reorder_for_locality, view_to_reshape

        # What Inductor does before the hook that our pass stands in.
        view_to_reshape(module)
        fake_tensor_prop(module, inputs)
        module.graph.eliminate_dead_code()
        reorder_for_locality(module.graph)
        hook(module.graph)
        module.recompile()
        found.append(Inspected(fusion_pass.records[-1], module, training=not flags.get("is_inference", False)))
        return make_boxed_func(module.forward)

    def backend(module: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        fix_eps(module)
        with torch._functorch.config.patch(enable_autograd_cache=False):
            return compile_fx(module, inputs, inner_compile=stop_before_code, config_patches=compiler.config)

    return backend
