# SPDX-License-Identifier: Apache-2.0
"""Norm -> quantise: ``norm_quant``.

    x -> pow -> mean -> add(eps) -> rsqrt -> mul(x) -> mul(weight) -> n
    n -> abs -> amax -> div(qmax) -> scale
    n -> div(scale) -> clamp -> cast -> q

is rewritten to

    norm_quant(x, weight, ...) -> q, scale

Where the norm is of ``x + residual``, the sum is a result too, and so is ``n`` where something else reads it.
"""

from __future__ import annotations

from typing import Any

from helion_compile.fusions.operands import Operands
from helion_compile.fusions.quantize_epilogue import into_quantizer
from helion_compile.kernels import norm_quant
from helion_compile.kernels.device.attribute_text import copy_fields
from helion_compile.kernels.device.normalize import NormAttrs
from helion_compile.kernels.families.norm_quant import NormQuantArgs
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.rewrite.fusion import Chain, Fusion
from helion_compile.passes.semantics import Norm, NormRounding, SemanticOp

__all__ = ["KERNELS", "fusion", "norm_text"]

KERNELS = (norm_quant,)


def fusion(*, exact: bool) -> Fusion:
    """Norm -> Quantize as one ``norm_quant``."""
    return into_quantizer(norm_quant, NormQuantArgs, Norm, exact=exact, fields=_fields, outputs=_outputs, check=_check)


def _check(chain: Chain) -> Refusal | None:
    if chain[Norm].op.gate_dtype:
        found, remedy = "x is multiplied by a gate before the residual is added", "a plain residual fuses"
        return chain.refuse(RefusalKind.OP, found, remedy)
    return None


def _fields(chain: Chain, operands: Operands) -> dict[str, Any]:
    norm, inputs = chain[Norm].op, chain.inputs
    return {
        "x": operands.rows(inputs["x"]),
        "weight": operands.of(inputs["weight"]) if norm.weight_dtype else None,
        "bias": operands.of(inputs["bias"]) if norm.bias_dtype else None,
        "residual": operands.rows(inputs["residual"]) if norm.residual else None,
        "eps": norm.eps,
        "norm": norm_text(norm),
        "keep_norm": bool(chain.copies_read(Norm, "out")),
    }


def _outputs(chain: Chain) -> list[tuple[type[SemanticOp], str]]:
    present = {"sum": chain[Norm].op.residual, "out": chain.copies_read(Norm, "out")}
    return [(Norm, name) for name, is_there in present.items() if is_there]


def norm_text(norm: Norm) -> str:
    """The attributes as the kernel takes them."""
    return NormAttrs(
        **copy_fields(norm, "kind", "root", "factor_dtype", "weight_offset", "residual_multiplier", "unrounded_sum"),
        cast_then_scale=norm.rounding is NormRounding.CAST_THEN_SCALE,
        dtype=None if norm.dtype == norm.x_dtype else norm.dtype,
    ).text
