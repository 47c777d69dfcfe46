"""Norm -> quantise: ``norm_quant``."""

from __future__ import annotations

from typing import Any

from helion_compile.fusions.operands import Operands
from helion_compile.fusions.quantize_epilogue import into_quantizer
from helion_compile.kernels import norm_quant
from helion_compile.kernels.device.normalize import normalization
from helion_compile.passes.rewrite.fusion import Chain, Fusion
from helion_compile.passes.semantics import Norm, NormRoot, NormRounding

__all__ = ["KERNELS", "fusion"]

KERNELS = (norm_quant,)

_ROOT = {NormRoot.RSQRT: "rsqrt", NormRoot.SQRT: "sqrt", NormRoot.RECIPROCAL_SQRT: "reciprocal_sqrt"}


def fusion(*, exact: bool) -> Fusion:
    """Norm -> Quantize as one ``norm_quant``."""
    return into_quantizer(norm_quant, Norm, exact=exact, tensors=_tensors, attributes=_attributes, outputs=_outputs)


def _tensors(chain: Chain, operands: Operands) -> tuple[Any, ...]:
    norm, inputs = chain[Norm].op, chain.inputs
    return (
        operands.rows(inputs["x"]),
        operands.of(inputs["weight"]) if norm.weight_dtype else None,
        operands.of(inputs["bias"]) if norm.bias_dtype else None,
        operands.rows(inputs["residual"]) if norm.residual else None,
    )


def _outputs(chain: Chain) -> list[str]:
    present = {"sum": chain[Norm].op.residual, "out": chain.copies_read(Norm, "out")}
    return [name for name, is_there in present.items() if is_there]


def _attributes(chain: Chain) -> tuple[float, str]:
    norm = chain[Norm].op
    return norm.eps, normalization(
        norm.kind.value,
        cast_then_scale=norm.rounding is NormRounding.CAST_THEN_SCALE,
        dtype=None if norm.dtype == norm.x_dtype else norm.dtype,
        root=_ROOT[norm.root],
        factor_dtype=norm.factor_dtype,
        weight_offset=norm.weight_offset,
        residual_multiplier=norm.residual_multiplier,
        unrounded_sum=norm.unrounded_sum,
    )
