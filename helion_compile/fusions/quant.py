"""Quantise alone: ``quant``."""

from __future__ import annotations

from helion_compile.fusions.quantize_epilogue import into_quantizer
from helion_compile.kernels import quant
from helion_compile.passes.rewrite.fusion import Fusion

__all__ = ["KERNELS", "fusion"]

KERNELS = (quant,)


def fusion(*, exact: bool) -> Fusion:
    """A Quantize that no fusion with its producer takes, as ``quant``."""
    return into_quantizer(
        quant, exact=exact, same_bits=exact, tensors=lambda chain, operands: (operands.rows(chain.inputs["x"]),)
    )
