"""Helion kernels as first-class citizens of PyTorch's compiler.

torch.compile(model, backend="helion")     norm -> quantise -> matmul chains run as fused Helion kernels
helion_compile.explain(model, *inputs)     what is fused, what is not, and why
helion_compile.report(compiled)            the same of a model that was compiled and has run
@helion_compile.kernel(reference=...)      a Helion function of your own, traceable as one graph node
"""

from helion_compile.configs.case import Case
from helion_compile.definitions import registry
from helion_compile.definitions.mutation_check import checked
from helion_compile.errors import (
    DuplicateKernelError,
    GradientError,
    KernelArgumentError,
    UndeclaredMutationError,
    UnknownKernelError,
    UnpreparedCaptureError,
)
from helion_compile.frontend.debug import debug
from helion_compile.frontend.explain import Report, explain
from helion_compile.frontend.report import report
from helion_compile.frontend.warmup import WarmUp, warm_up
from helion_compile.graph.hop import call
from helion_compile.helion_kernel import Configs, HelionKernel, Tuning, kernel
from helion_compile.runtime.counters import counters
from helion_compile.runtime.profiler_ranges import profiling

registry.name_module("helion_compile.kernels")

__all__ = [
    "Case",
    "Configs",
    "DuplicateKernelError",
    "GradientError",
    "HelionKernel",
    "KernelArgumentError",
    "Report",
    "Tuning",
    "UndeclaredMutationError",
    "UnknownKernelError",
    "UnpreparedCaptureError",
    "WarmUp",
    "call",
    "checked",
    "counters",
    "debug",
    "explain",
    "kernel",
    "profiling",
    "report",
    "warm_up",
]
