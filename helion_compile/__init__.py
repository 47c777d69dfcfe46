"""Helion kernels as first-class citizens of PyTorch's compiler.

torch.compile(model, backend="helion")     norm -> quantise -> matmul chains run as fused Helion kernels
helion_compile.explain(model, *inputs)     what is fused, what is not, and why
helion_compile.report(compiled)            the same of a model that was compiled and has run
@helion_compile.kernel(reference=...)      a Helion function of your own, traceable as one graph node
"""

from helion_compile.case import Case
from helion_compile.checking import checked
from helion_compile.compilations import report
from helion_compile.counting import counters
from helion_compile.debugging import debug
from helion_compile.errors import (
    DuplicateKernelError,
    GradientError,
    KernelArgumentError,
    UndeclaredMutationError,
    UnknownKernelError,
    UnpreparedCaptureError,
)
from helion_compile.explain import Report, explain
from helion_compile.hop import call
from helion_compile.kernel import HelionKernel, kernel
from helion_compile.ranges import profiling
from helion_compile.warm_up import WarmUp, warm_up

__all__ = [
    "Case",
    "DuplicateKernelError",
    "GradientError",
    "HelionKernel",
    "KernelArgumentError",
    "Report",
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
