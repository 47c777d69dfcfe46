# SPDX-License-Identifier: Apache-2.0
"""What was compiled so far: the reports of each call of ``torch.compile(…, backend="helion")``, found again by its result.

Dynamo keeps what it compiled with the code object of the function, for every backend object that is equal: a second equal
call of ``torch.compile`` for the same code compiles nothing, and is served by what the first one compiled.

Private interfaces (``compat``): the backend object in which ``torch.compile`` wraps a backend's name and options, which
Dynamo knows while it traces; which code a function behind a graph break goes on with; the id of the current compilation.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any

from helion_compile.compat import CompileContext
from helion_compile.reports.model import GraphReport

__all__ = ["current_compilation", "current_reports", "find_reports", "forget_reports"]


@dataclasses.dataclass
class _Compiled:
    """What was compiled with one backend object: the reports, and the functions in which Dynamo began to trace."""

    backend: weakref.ref[Any]
    reports: list[GraphReport | Callable[[], list[GraphReport]]] = dataclasses.field(default_factory=list)
    began_in: set[CodeType] = dataclasses.field(default_factory=set)

    def read_reports(self) -> list[GraphReport]:
        """The reports; graphs that were not read yet are read now, once."""
        reports = [report for each in self.reports for report in (each() if callable(each) else [each])]
        self.reports[:] = reports
        return reports


_compiled: dict[int, _Compiled] = {}  # by the id of a backend object that lives


def find_reports(backend: Any, code: CodeType | None) -> list[GraphReport]:
    """The reports of what was compiled with ``backend``, or with an equal one for the same code, which Dynamo shares."""
    own = _compiled.get(id(backend))
    if own is not None and own.reports:
        return list(own.read_reports())
    serving = [each for each in _compiled.values() if code in each.began_in and each.backend() == backend]
    return [dataclasses.replace(report, shared=True) for each in serving for report in each.read_reports()]


def current_reports() -> list[GraphReport | Callable[[], list[GraphReport]]]:
    """Where the reports of the graph that Dynamo is compiling belong, or what makes them once they are asked for.

    A list of nobody's outside of Dynamo.
    """
    from helion_compile.compat import InstructionTranslator, innermost_backend

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


def forget_reports() -> None:
    """Forget the reports of everything compiled."""
    for each in _compiled.values():
        each.reports.clear()


def current_compilation() -> str:
    """Dynamo's name of the compilation under way, "0/0"; empty outside of one."""
    current = CompileContext.current_compile_id()
    return "" if current is None else str(current)


def _written_code(code: CodeType) -> CodeType:
    """The code of the function as it is written, of one that goes on behind a graph break."""
    from helion_compile.compat import ContinueExecutionCache

    while (resumed := ContinueExecutionCache.generated_code_metadata.get(code)) is not None:
        code = resumed.code
    return code
