"""What becomes what: chains of semantic ops and the kernel that each becomes.

One fusion a file, named as its kernel.  Each has ``KERNELS``, all kernels that it may put into a graph, and
``fusion(exact)``, the :class:`passes.Fusion`.  ``CATALOGUE`` lists them in order of preference.
"""

from __future__ import annotations

from helion_compile.fusions import activation_quant, modulated_norm_quant, norm_quant, norm_rope, quant, rope, scaled_mm
from helion_compile.graph import lowering
from helion_compile.graph.hop import helion_kernel
from helion_compile.passes.rewrite.fusion import Fusion

__all__ = ["CATALOGUE", "NUMERICS", "fusions", "identity"]

NUMERICS = ("default", "exact")
CATALOGUE = (modulated_norm_quant, norm_quant, norm_rope, activation_quant, quant, rope, scaled_mm)


def fusions(numerics: str = "default") -> tuple[Fusion, ...]:
    """The fusions, best first.

    Args:
        numerics: "default", where kernels keep intermediate values in fp32 as Inductor's do, or "exact", where they keep
            every rounding step of the eager model.
    """
    lowering.register_op(helion_kernel)  # the pass makes nodes while Inductor is at work, past the op's own tracing
    return tuple(module.fusion(exact=numerics == "exact") for module in CATALOGUE)


def identity(numerics: str) -> str:
    """Everything beyond the graph that decides what the fusions put there; part of the compile cache's key."""
    kernels = {kernel.short_name: kernel for module in CATALOGUE for kernel in module.KERNELS}
    return " ".join([numerics, *(f"{kernel.key} {kernel.table.fingerprint()}" for kernel in kernels.values())])
