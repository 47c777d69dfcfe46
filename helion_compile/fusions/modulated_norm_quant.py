# SPDX-License-Identifier: Apache-2.0
"""Norm -> modulate -> quantise: ``modulated_norm_quant``.

    x -> var_mean -> add(eps) -> rsqrt -> mul(x - mean) -> n
    n -> mul(scale + 1) -> add(shift) -> a                       scale, shift: one row a batch
    a -> abs -> amax -> div(qmax) -> s
    a -> div(s) -> clamp -> cast -> q

is rewritten to

    modulated_norm_quant(x, scale, shift, ...) -> q, s

Where the norm is of ``x * gate + residual`` or of ``x + residual``, the sum is a result too, and so is ``a`` where something
else reads it.
"""

from __future__ import annotations

from typing import Any

from helion_compile.fusions.norm_quant import norm_text
from helion_compile.fusions.operands import Operands
from helion_compile.fusions.quantize_epilogue import into_quantizer
from helion_compile.kernels import modulated_norm_quant
from helion_compile.kernels.device.attribute_text import word_of
from helion_compile.kernels.device.modulate import ModulateAttrs
from helion_compile.kernels.families.modulated_norm_quant import ModulatedNormQuantArgs
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.values import known_equal, shape_of
from helion_compile.passes.rewrite.fusion import Chain, Fusion
from helion_compile.passes.semantics import Modulate, Norm, SemanticOp

__all__ = ["KERNELS", "fusion"]

KERNELS = (modulated_norm_quant,)


def fusion(*, exact: bool) -> Fusion:
    """Norm -> Modulate -> Quantize as one ``modulated_norm_quant``."""
    return into_quantizer(
        modulated_norm_quant,
        ModulatedNormQuantArgs,
        Norm,
        Modulate,
        exact=exact,
        fields=_fields,
        outputs=_outputs,
        check=_check,
    )


def _check(chain: Chain) -> Refusal | None:
    if chain.copies_read(Norm, "out"):
        found, remedy = "the norm is also read without its modulation", "read by the modulation alone it fuses"
        return chain.refuse(RefusalKind.READER, found, remedy)
    normed, modulated = (shape_of(chain[op].outputs["out"][0]) for op in (Norm, Modulate))
    if not known_equal(normed[-1], modulated[-1]):
        found, remedy = "rows of {normed} elements are modulated in rows of {modulated}", "rows that stay as they are fuse"
        return chain.refuse(RefusalKind.SHAPE, found, remedy, normed=normed[-1], modulated=modulated[-1])
    return None


def _fields(chain: Chain, operands: Operands) -> dict[str, Any]:
    norm, modulate, inputs = chain[Norm].op, chain[Modulate].op, chain.inputs
    return {
        "x": operands.rows(inputs["x"]),
        "weight": operands.of(inputs["weight"]) if norm.weight_dtype else None,
        "bias": operands.of(inputs["bias"]) if norm.bias_dtype else None,
        "residual": operands.rows(inputs["residual"]) if norm.residual else None,
        "gate": operands.rows(inputs["gate"]) if norm.gate_dtype else None,
        "mod_scale": operands.rows(inputs["mod_scale"]),
        "mod_shift": operands.rows(inputs["mod_shift"]) if modulate.shift_dtype else None,
        "eps": norm.eps,
        "norm": norm_text(norm),
        "modulation": ModulateAttrs(
            rounding=word_of(modulate.rounding),
            scale_offset=modulate.scale_offset,
            dtype=None if modulate.dtype == modulate.x_dtype else modulate.dtype,
        ).text,
        "keep": bool(chain.copies_read(Modulate, "out")),
    }


def _outputs(chain: Chain) -> list[tuple[type[SemanticOp], str]]:
    present = {(Norm, "sum"): chain[Norm].op.residual, (Modulate, "out"): chain.copies_read(Modulate, "out")}
    return [output for output, is_there in present.items() if is_there]
