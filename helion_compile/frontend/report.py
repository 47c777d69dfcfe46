# SPDX-License-Identifier: Apache-2.0
"""``report``: what was fused in a model that was compiled and has run.

Private interfaces (``compat``): the backend object in which ``torch.compile`` wraps a backend's name and options, which the
compiled function keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch

from helion_compile.frontend.backend import helion
from helion_compile.frontend.history import find_reports
from helion_compile.reports.identity import identify
from helion_compile.reports.report import Report

__all__ = ["report"]


def report(compiled: Callable[..., Any]) -> Report:
    """What was fused in a model that was compiled with ``backend="helion"`` and has run, what was not, and why.

    Every graph that was compiled for it so far is in the report, in the order of compilation: those of earlier sizes and
    those behind graph breaks.  A graph that came from Inductor's cache is reported as it was compiled
    (``GraphReport.cached``); where that is not kept, the graph is read here, which takes what ``explain`` takes.  Where
    nothing was compiled for it, the report has what an equal call of ``torch.compile`` compiled for the same code, which
    Dynamo uses here too (``GraphReport.shared``).  ``torch.compiler.reset()`` forgets all.

    Of a module that is not compiled itself the report has its parts that are: layers on which ``layer.compile()`` was called,
    as diffusers' ``compile_repeated_blocks`` does, or which ``torch.compile`` returned; a ``forward`` that was replaced by a
    compiled one; what ``generate`` of transformers compiled for its ``CompileConfig``.  A pipeline has those of its models.

    Args:
        compiled: what ``torch.compile`` returned, a module on which ``module.compile()`` was called, or a module or pipeline
            with such parts.

    Raises:
        TypeError: ``compiled`` is not the result of ``torch.compile``, and has no part that is.
        ValueError: it was compiled with another backend.
    """
    found = {id(each): (each, backend) for each in _list_parts(compiled) if (backend := _backend_of(each)) is not None}
    if not found:
        raise TypeError(
            f"report() takes what torch.compile(…, backend='helion') returned; got a {type(compiled).__name__} that is not "
            f"compiled. explain(model, *args) tells what compiling it would do."
        )
    ours = [(each, backend) for each, backend in found.values() if getattr(backend, "compiler_fn", backend) is helion]
    if not ours:
        backend = next(backend for _, backend in found.values())
        name = getattr(backend, "compiler_name", getattr(backend, "__name__", type(backend).__name__))
        raise ValueError(f"report() was given a model compiled with backend={name!r}; it knows those of backend='helion'.")
    # Layers of one class share what the first of them compiled.
    graphs = [graph for each, backend in ours for graph in find_reports(backend, _code_of(each))]
    own = {id(graph.record): graph for graph in graphs if not graph.shared}
    shared = {id(graph.record): graph for graph in graphs if graph.shared and id(graph.record) not in own}
    found_graphs = (*own.values(), *shared.values())
    note = "" if found_graphs else _explain_no_graph(compiled)
    return Report(found_graphs, note, identify(_written(compiled)))


def _list_parts(compiled: Any) -> list[Any]:
    """``compiled``, and what may be compiled inside: modules from the outermost on, and functions that are their attributes.

    Of a module that is compiled itself its layers are not looked at: they are part of its graphs.  Its attributes are, since
    ``generate`` of a compiled model compiles the model behind it.
    """
    if isinstance(compiled, torch.nn.Module):
        own = getattr(compiled, "_orig_mod", compiled)
        modules = [compiled, own] if _backend_of(compiled) is not None else list(compiled.modules())
    else:  # a function has what torch.compile left on it among its attributes, but no model
        held = [] if isinstance(compiled, FunctionType) else getattr(compiled, "__dict__", {}).values()
        modules = [module for each in held if isinstance(each, torch.nn.Module) for module in each.modules()]
    functions = [
        value for module in modules for value in vars(module).values() if isinstance(value, FunctionType | MethodType)
    ]
    return [*([] if compiled in modules else [compiled]), *modules, *functions]


def _explain_no_graph(compiled: Any) -> str:
    """Why a compiled model has no graph, where that can be told from its class; empty otherwise."""
    model = getattr(compiled, "_orig_mod", compiled)
    if not callable(getattr(model, "generate", None)):
        return ""
    return (
        "The compiled model was not called. compiled.generate() is the method of the model inside, which calls that one, not "
        "the compiled one: give generate() cache_implementation='static' and compile_config=CompileConfig(backend='helion')."
    )


def _code_of(compiled: Any) -> CodeType | None:
    """The code of the function, or of the module's ``forward``, that was compiled."""
    model = _written(compiled)
    function = model.forward if isinstance(model, torch.nn.Module) else model
    return getattr(getattr(function, "__func__", function), "__code__", None)


def _written(compiled: Any) -> Any:
    """What was given to ``torch.compile``."""
    return getattr(compiled, "_torchdynamo_orig_callable", getattr(compiled, "_orig_mod", compiled))


def _backend_of(compiled: Any) -> Any:
    """The backend object of a compiled module or function; None where there is none."""
    from helion_compile.compat import OptimizeContext, innermost_backend

    if isinstance(compiled, torch.nn.Module):
        context = getattr(compiled, "dynamo_ctx", None)
        if context is None:
            return _backend_of(compiled._compiled_call_impl) if compiled._compiled_call_impl else None
    else:
        cells = [cell.cell_contents for cell in getattr(compiled, "__closure__", None) or ()]
        context = next((each for each in cells if isinstance(each, OptimizeContext)), None)
    return None if context is None else innermost_backend(context.callback)
