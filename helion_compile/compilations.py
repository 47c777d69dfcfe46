"""What was compiled so far: the reports of each call of ``torch.compile(…, backend="helion")``, found again by its result.

Private interfaces: the backend object in which ``torch.compile`` wraps a backend's name and options, which Dynamo knows while
it traces and the compiled function keeps; the id of the current compilation.  Tested with torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from helion_compile.reports.model import GraphReport, Report

__all__ = ["compilation", "forget", "report", "reports_of_this_call"]

_reports: dict[int, list[GraphReport]] = {}  # by the id of a backend object that lives


def report(compiled: Callable[..., Any]) -> Report:
    """What was fused in a model that was compiled with ``backend="helion"`` and has run, what was not, and why.

    Every graph that was compiled for it so far is in the report, in the order of compilation: those of earlier sizes and
    those behind graph breaks.  A graph that came from Inductor's cache is not read again; the report says so, and
    :func:`helion_compile.explain` reads it.  Nor is there a report where Dynamo has a graph already because the same model
    was compiled before by an equal call of ``torch.compile``: ask with the result of that.  ``torch.compiler.reset()``
    forgets all.

    Args:
        compiled: what ``torch.compile`` returned, or a module on which ``module.compile()`` was called.

    Raises:
        TypeError: ``compiled`` is not the result of ``torch.compile``.
        ValueError: it was compiled with another backend.
    """
    from helion_compile.backend import helion

    backend = _backend_of(compiled)
    if backend is None:
        raise TypeError(
            f"report() takes what torch.compile(…, backend='helion') returned; got a {type(compiled).__name__} that is not "
            f"compiled. explain(model, *args) tells what compiling it would do."
        )
    if getattr(backend, "compiler_fn", backend) is not helion:
        name = getattr(backend, "compiler_name", getattr(backend, "__name__", type(backend).__name__))
        raise ValueError(f"report() was given a model compiled with backend={name!r}; it knows those of backend='helion'.")
    return Report(tuple(_reports.get(id(backend), ())))


def reports_of_this_call() -> list[GraphReport]:
    """Where the reports of the graph that Dynamo is compiling belong; a list of nobody's outside of Dynamo."""
    from torch._dynamo.eval_frame import innermost_backend
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        backend = innermost_backend(InstructionTranslator.current_tx().output.compiler_fn)
    except AttributeError:  # no tracing under way
        return []
    if id(backend) not in _reports:
        _reports[id(backend)] = []
        weakref.finalize(backend, _reports.pop, id(backend), None)
    return _reports[id(backend)]


def forget() -> None:
    """Forget the reports of everything compiled."""
    for reports in _reports.values():
        reports.clear()


def compilation() -> str:
    """Dynamo's name of the compilation under way, "0/0"; empty outside of one."""
    current = torch._guards.CompileContext.current_compile_id()
    return "" if current is None else str(current)


def _backend_of(compiled: Any) -> Any:
    """The backend object of a compiled module or function; None where there is none."""
    from torch._dynamo.eval_frame import OptimizeContext, innermost_backend

    if isinstance(compiled, torch.nn.Module):
        context = getattr(compiled, "dynamo_ctx", None)
        if context is None:
            return _backend_of(compiled._compiled_call_impl) if compiled._compiled_call_impl else None
    else:
        cells = [cell.cell_contents for cell in getattr(compiled, "__closure__", None) or ()]
        context = next((each for each in cells if isinstance(each, OptimizeContext)), None)
    return None if context is None else innermost_backend(context.callback)
