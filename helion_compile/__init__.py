# SPDX-License-Identifier: Apache-2.0
"""Helion kernels as first-class citizens of PyTorch's compiler.

torch.compile(model, backend="helion")     norm -> quantise -> matmul chains run as fused Helion kernels
helion_compile.explain(model, *inputs)     what is fused, what is not, and why
helion_compile.report(compiled)            the same of a model that was compiled and has run
helion_compile.export(model, args, path=)  a package that runs without Python
@helion_compile.kernel(reference=...)      a Helion function of your own, traceable as one graph node
helion_compile.check(kernel, *args)        its body against its reference, and all that is declared of it

Importing it imports nothing else: each name brings its module when it is first used, so that ``helion_compile.passes`` needs
torch alone, and the command line answers at once.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helion_compile.checking.check import check
    from helion_compile.checking.result import CheckResult
    from helion_compile.configs.case import Case
    from helion_compile.errors import (
        DuplicateKernelError,
        GradientError,
        KernelArgumentError,
        KernelCheckError,
        PackageError,
        UnknownKernelError,
        UnpreparedCaptureError,
    )
    from helion_compile.frontend.debug import debug
    from helion_compile.frontend.explain import explain
    from helion_compile.frontend.export import export
    from helion_compile.frontend.report import report
    from helion_compile.frontend.warmup import WarmUp, warm_up
    from helion_compile.graph.hop import call
    from helion_compile.helion_kernel import Configs, HelionKernel, Tuning, kernel
    from helion_compile.reports.report import Report
    from helion_compile.runtime.counters import counters
    from helion_compile.runtime.profiler_ranges import profiling

if importlib.util.find_spec(f"{__name__}.passes") is None:
    raise ImportError(
        "helion_compile.passes is missing. In a checkout helion_compile/passes is a symbolic link to the folder passes, which "
        "git on Windows and some archives leave out. Check out with `git config core.symlinks true`, or copy the folder there."
    )

__all__ = [
    "Case",
    "CheckResult",
    "Configs",
    "DuplicateKernelError",
    "GradientError",
    "HelionKernel",
    "KernelArgumentError",
    "KernelCheckError",
    "PackageError",
    "Report",
    "Tuning",
    "UnknownKernelError",
    "UnpreparedCaptureError",
    "WarmUp",
    "call",
    "check",
    "counters",
    "debug",
    "explain",
    "export",
    "kernel",
    "profiling",
    "report",
    "warm_up",
]

_MODULES = {
    "Case": "configs.case",
    "CheckResult": "checking.result",
    "Configs": "helion_kernel",
    "DuplicateKernelError": "errors",
    "GradientError": "errors",
    "HelionKernel": "helion_kernel",
    "KernelArgumentError": "errors",
    "KernelCheckError": "errors",
    "PackageError": "errors",
    "Report": "reports.report",
    "Tuning": "helion_kernel",
    "UnknownKernelError": "errors",
    "UnpreparedCaptureError": "errors",
    "WarmUp": "frontend.warmup",
    "call": "graph.hop",
    "check": "checking.check",
    "counters": "runtime.counters",
    "debug": "frontend.debug",
    "explain": "frontend.explain",
    "export": "frontend.export",
    "kernel": "helion_kernel",
    "profiling": "runtime.profiler_ranges",
    "report": "frontend.report",
    "warm_up": "frontend.warmup",
}


def _find_version() -> str:
    """The installed version; "0" and what is left of a folder that is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version("helion-compile")
    except importlib.metadata.PackageNotFoundError:
        return "0+not.installed"


if not TYPE_CHECKING:  # which would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return _find_version()
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value  # found without this function from now on
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
