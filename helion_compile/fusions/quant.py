# SPDX-License-Identifier: Apache-2.0
"""Quantise alone: ``quant``.

    x -> abs -> amax -> div(qmax) -> scale
    x -> div(scale) -> clamp -> cast -> q

is rewritten to

    quant(x, ...) -> q, scale

With a static scale, an input, there is no amax; of a quantiser with a zero point ``quant`` returns that too.  Where Inductor
puts the quantiser into the kernel that computes x, it is left there.
"""

from __future__ import annotations

from helion_compile.fusions.profitability import check_lone_quantizer
from helion_compile.fusions.quantize_epilogue import into_quantizer
from helion_compile.kernels import quant
from helion_compile.kernels.families.quant import QuantArgs
from helion_compile.passes.rewrite.fusion import Fusion

__all__ = ["KERNELS", "fusion"]

KERNELS = (quant,)


def fusion(*, exact: bool) -> Fusion:
    """A Quantize that no fusion with its producer takes, as ``quant``."""
    return into_quantizer(
        quant,
        QuantArgs,
        exact=exact,
        same_bits=exact,
        check_profitable=(lambda chain: None) if exact else check_lone_quantizer,
        fields=lambda chain, operands: {"x": operands.rows(chain.inputs["x"])},
    )
