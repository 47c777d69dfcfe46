# SPDX-License-Identifier: Apache-2.0
"""Tracing a model up to the point where ``backend="helion"`` hands its graphs to Inductor's code generation.

What comes after, compiling kernels, takes most of torch.compile's time and changes nothing of what was fused.  The graphs
are run as they are, node by node.

Private interfaces (``compat``): the first steps of ``compile_fx``'s inner function.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule

from helion_compile import compat
from helion_compile.compat import TracingContext, tracing
from helion_compile.frontend.history import current_compilation
from helion_compile.frontend.inductor import chain_passes, explain_gradient_errors, make_compiler
from helion_compile.frontend.options import Options
from helion_compile.graph.specialize_eps import specialize_eps
from helion_compile.passes.account.records import GraphRecord
from helion_compile.passes.account.refusal import Refusal
from helion_compile.passes.ir.dynamic_sizes import traced_size
from helion_compile.reports.describing import describe, list_called, tell_caller
from helion_compile.reports.model import GraphReport
from helion_compile.verify import run_verified

__all__ = ["Inspected", "inspect_graph", "inspect_model", "make_inspecting_backend", "make_reader"]

log = logging.getLogger("helion_compile.explain")


@dataclass
class Inspected:
    """One graph as the pass left it.

    Attributes:
        report: what a report says of it; with what was verified, once the graph has run.
        module: the graph, run node by node.
        inputs, outputs: of its first run, where recording them was asked for.
    """

    report: GraphReport
    module: GraphModule
    inputs: list[Any] | None = None
    outputs: Any = None

    @property
    def record(self) -> GraphRecord:
        return self.report.record

    @property
    def training(self) -> bool:
        return self.report.training


def inspect_model(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
    verify: bool = False,
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
    compiled = torch.compile(fresh, backend=make_inspecting_backend(found, mode, options, verify=verify), dynamic=dynamic)
    # Sizes of earlier calls, of this function or with other models, must not make today's dynamic.
    settings = {"automatic_dynamic_shapes": False, "recompile_limit": 1000}
    if hasattr(compat.dynamo_config, "invalidate_compile_context_weakrefs"):  # since torch 2.13
        settings["invalidate_compile_context_weakrefs"] = True  # as for the backends it knows: weights can be moved then
    with _as_written(model), compat.dynamo_config.patch(settings):
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


def make_inspecting_backend(
    found: list[Inspected],
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    verify: bool = False,
    record_inputs: bool = False,
    reject: Mapping[tuple[str, str], Refusal] = MappingProxyType({}),
) -> Callable[[GraphModule, Sequence[Any]], Callable[..., Any]]:
    """A backend for ``torch.compile`` that rewrites graphs as ``backend="helion"`` does and appends them to ``found``.

    Args:
        verify: run each fused site of a graph against what it replaces, the first time the graph runs.
        record_inputs: keep a copy of what a graph is given the first time, and what it returned.
        reject: chains to leave alone, as ``FusionPass`` takes them.
    """
    from functorch.compile import make_boxed_func

    from helion_compile.compat import compile_fx

    ours, theirs = Options.split(options)
    fusion_pass = ours.fusion_pass(log, keep_originals=verify, reject=reject)
    compiler = make_compiler(mode, theirs)
    hook = chain_passes(compiler, fusion_pass)

    def stop_before_code(module: GraphModule, inputs: Sequence[Any], **flags: Any) -> Callable[..., Any]:
        from helion_compile.compat import fake_tensor_prop, reorder_for_locality, view_to_reshape

        training = not flags.get("is_inference", False)
        rewritten: list[Inspected] = []

        def rewrite(each: GraphModule) -> None:
            # What Inductor does before the hook that our pass stands in; it comes to called graphs first.
            for inner in dict.fromkeys(list_called(each)):
                rewrite(inner)
            each.graph.eliminate_dead_code()
            reorder_for_locality(each.graph)
            hook(each.graph)
            each.recompile()
            told = tell_caller([known.report for known in rewritten], [known.module.graph for known in rewritten], each.graph)
            for known, report in zip(rewritten, told, strict=True):
                known.report = report
            report = describe(each.graph, fusion_pass.records[-1], training=training, name=current_compilation())
            rewritten.append(Inspected(report, each))

        view_to_reshape(module)
        fake_tensor_prop(module, inputs)
        rewrite(module)
        found.extend(rewritten)
        inspected = rewritten[-1]

        def run(*values: Any) -> Any:
            if not (verify or record_inputs) or inspected.outputs is not None:
                return module.forward(*values)
            if record_inputs:
                inspected.inputs = [each.clone() if isinstance(each, torch.Tensor) else each for each in values]
            if verify:
                records = {each.module: each.record for each in rewritten}
                outputs, compared = run_verified(module, records, values, ours.numerics)
                for each in rewritten:
                    each.report = each.report.with_verified(compared[each.module])
            else:
                outputs = module.forward(*values)
            # A result may be an input that its owner goes on to write to.
            inspected.outputs = [each.clone() if isinstance(each, torch.Tensor) else each for each in outputs]
            return outputs

        return make_boxed_func(run)

    def backend(module: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        specialize_eps(module)
        with compat.functorch_config.patch(enable_autograd_cache=False), explain_gradient_errors(module, inputs):
            return compile_fx(module, inputs, inner_compile=stop_before_code, config_patches=compiler.config)

    return backend


def inspect_graph(
    module: GraphModule,
    inputs: Sequence[Any],
    mode: str | None,
    options: Mapping[str, Any] | None,
    **what: Any,
) -> list[Inspected]:
    """Inspect a graph that Dynamo has just made, and run it on the arguments for which it was made.

    Neither the graph nor its arguments are changed: all but the parameters are copied before.  ``what`` goes to
    :func:`make_inspecting_backend`.
    """
    found: list[Inspected] = []
    backend = make_inspecting_backend(found, mode, options, **what)
    values = [_own(value) for value in inputs]
    fresh = _copy_context(TracingContext.try_get())
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with tracing(fresh), torch.random.fork_rng(devices):
        compiled = backend(_copy_graph(module, {}), inputs)
        compiled(*values)
    return found


def _copy_context(context: TracingContext | None) -> TracingContext | None:
    """A context of its own, as what AOTAutograd leaves in one is read by the compilation that follows.

    It would find there, by their names, the regions that are called often: as our pass left them.
    """
    own = copy.copy(context)
    if own is not None and hasattr(own, "hop_dispatch_set_cache"):
        own.hop_dispatch_set_cache = type(own.hop_dispatch_set_cache)()
    return own


def make_reader(
    module: GraphModule,
    inputs: Sequence[Any],
    mode: str | None,
    options: Mapping[str, Any] | None,
    **what: Any,
) -> Callable[[], list[GraphReport]] | None:
    """What reads a graph that Dynamo has just made, at any later time: with the values of tracing, so nothing runs.

    ``what`` goes to :func:`make_inspecting_backend`.  For graphs of inference, which are one graph behind AOTAutograd too.
    None where the graph holds something that cannot be copied.
    """
    # Weights that the graph holds are shared: it is the graph that a compiler changes.
    held = {id(each): each for each in (*module.parameters(), *module.buffers())}
    try:
        own = _copy_graph(module, held)
    except Exception:
        return None
    placeholders = module.graph.find_nodes(op="placeholder")
    values = [node.meta.get("example_value", given) for node, given in zip(placeholders, inputs, strict=True)]
    grad, inference, name = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), current_compilation()

    def read() -> list[GraphReport]:
        found: list[Inspected] = []
        with tracing(None), torch.inference_mode(inference), torch.set_grad_enabled(grad):
            make_inspecting_backend(found, mode, options, **what)(own, values)
        return [dataclasses.replace(inspected.report, name=name) for inspected in found]

    return read


def _copy_graph(module: GraphModule, memo: dict[int, Any]) -> GraphModule:
    """A deep copy that knows no tensor but those in ``memo`` and constants: not the weights and inputs it was traced with.

    Dynamo keeps weak references to these at the placeholders, for the time of a compilation.  A copy lives longer, and a
    weight of quantised numbers cannot be moved (``.to()``) while there is one.
    """
    own = copy.deepcopy(module, memo)
    for node in own.graph.find_nodes(op="placeholder"):
        if (argument := node.meta.get("grapharg")) is not None:
            known = {name: getattr(argument, name, None) for name in ("source", "pass_arg_as_tensor")}
            node.meta["grapharg"] = types.SimpleNamespace(**known)
    return own


def _own(value: Any) -> Any:
    if isinstance(value, torch.SymInt) and (traced := traced_size(value)) is not None:
        return traced
    return value.clone() if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter) else value
