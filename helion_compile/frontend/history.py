"""What was compiled so far: the reports of each call of ``torch.compile(…, backend="helion")``, found again by its result.

Dynamo keeps what it compiled with the code object of the function, for every backend object that is equal: a second equal
call of ``torch.compile`` for the same code compiles nothing, and is served by what the first one compiled.

Private interfaces: the backend object in which ``torch.compile`` wraps a backend's name and options, which Dynamo knows while
it traces and the compiled function keeps; which code a function behind a graph break goes on with; the id of the current
compilation.  Tested with torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch

from helion_compile.reports.model import GraphReport, Report

__all__ = ["compilation", "forget", "report", "reports_of_this_call"]


@dataclasses.dataclass
class _Compiled:
    """What was compiled with one backend object: the reports, and the functions in which Dynamo began to trace."""

    backend: weakref.ref[Any]
    reports: list[GraphReport | Callable[[], GraphReport]] = dataclasses.field(default_factory=list)
    began_in: set[CodeType] = dataclasses.field(default_factory=set)

    def told(self) -> list[GraphReport]:
        """The reports; graphs that were not read yet are read now, once."""
        self.reports[:] = [each() if callable(each) else each for each in self.reports]
        return self.reports


_compiled: dict[int, _Compiled] = {}  # by the id of a backend object that lives


def report(compiled: Callable[..., Any]) -> Report:
    """What was fused in a model that was compiled with ``backend="helion"`` and has run, what was not, and why.

    Every graph that was compiled for it so far is in the report, in the order of compilation: those of earlier sizes and
    those behind graph breaks.  A graph that came from Inductor's cache is told as it was when it was compiled
    (``GraphReport.cached``); where that is not kept, the graph is read here, which takes what ``explain`` takes.  Where
    nothing was compiled for it, the report has what an equal call of ``torch.compile`` compiled for the same code, which
    Dynamo uses here too (``GraphReport.shared``).  ``torch.compiler.reset()`` forgets all.

    Args:
        compiled: what ``torch.compile`` returned, or a module on which ``module.compile()`` was called.

    Raises:
        TypeError: ``compiled`` is not the result of ``torch.compile``.
        ValueError: it was compiled with another backend.
    """
    from helion_compile.frontend.backend import helion

    backend = _backend_of(compiled)
    if backend is None:
        raise TypeError(
            f"report() takes what torch.compile(…, backend='helion') returned; got a {type(compiled).__name__} that is not "
            f"compiled. explain(model, *args) tells what compiling it would do."
        )
    if getattr(backend, "compiler_fn", backend) is not helion:
        name = getattr(backend, "compiler_name", getattr(backend, "__name__", type(backend).__name__))
        raise ValueError(f"report() was given a model compiled with backend={name!r}; it knows those of backend='helion'.")
    own = _compiled.get(id(backend))
    if own is not None and own.reports:
        return Report(tuple(own.told()))
    code = _code_of(compiled)
    serving = [each for each in _compiled.values() if code in each.began_in and each.backend() == backend]
    return Report(tuple(dataclasses.replace(report, shared=True) for each in serving for report in each.told()))


def reports_of_this_call() -> list[GraphReport | Callable[[], GraphReport]]:
    """Where the reports of the graph that Dynamo is compiling belong, or what makes them once they are asked for.

    A list of nobody's outside of Dynamo.
    """
    from torch._dynamo.eval_frame import innermost_backend
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        output = InstructionTranslator.current_tx().output
        backend = innermost_backend(output.compiler_fn)
    except AttributeError:  # no tracing under way
        return []
    if id(backend) not in _compiled:
        _compiled[id(backend)] = _Compiled(weakref.ref(backend))
        weakref.finalize(backend, _compiled.pop, id(backend), None)
    _compiled[id(backend)].began_in.add(_written_code(output.root_tx.f_code))
    return _compiled[id(backend)].reports


def forget() -> None:
    """Forget the reports of everything compiled."""
    for each in _compiled.values():
        each.reports.clear()


def compilation() -> str:
    """Dynamo's name of the compilation under way, "0/0"; empty outside of one."""
    current = torch._guards.CompileContext.current_compile_id()
    return "" if current is None else str(current)


def _written_code(code: CodeType) -> CodeType:
    """The code of the function as it is written, of one that goes on behind a graph break."""
    from torch._dynamo.resume_execution import ContinueExecutionCache

    while (resumed := ContinueExecutionCache.generated_code_metadata.get(code)) is not None:
        code = resumed.code
    return code


def _code_of(compiled: Any) -> CodeType | None:
    """The code of the function, or of the module's ``forward``, that was compiled."""
    model = getattr(compiled, "_torchdynamo_orig_callable", getattr(compiled, "_orig_mod", compiled))
    function = model.forward if isinstance(model, torch.nn.Module) else model
    return getattr(getattr(function, "__func__", function), "__code__", None)


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
