"""Norm -> quantise: ``rms_norm_quant``."""

from __future__ import annotations

import functools
from typing import Any

from helion_compile.fusions.choosing import refused_or_left
from helion_compile.fusions.quantizing import (
    quantizer_inputs,
    quantizer_outputs,
    quantizer_text,
    refuse_quantize,
    refuse_readers,
)
from helion_compile.fusions.tensors import Outputs, rows_of, rows_value, unpack, value_of
from helion_compile.hop import helion_kernel
from helion_compile.kernels import rms_norm_quant
from helion_compile.kernels.normalization import normalization
from passes.fusion import Chain, Emit, Fusion
from passes.meanings import Norm, NormRoot, NormRounding, Quantize

__all__ = ["KERNELS", "fusion"]

KERNELS = (rms_norm_quant,)

_ROOT = {NormRoot.RSQRT: "rsqrt", NormRoot.SQRT: "sqrt", NormRoot.RECIPROCAL_SQRT: "reciprocal_sqrt"}


def fusion(*, exact: bool) -> Fusion:
    """Norm -> Quantize as one ``rms_norm_quant``."""
    return Fusion(
        "rms_norm_quant",
        (Norm, Quantize),
        refuse=functools.partial(_refuse, exact=exact),
        build=functools.partial(_build, exact=exact),
    )


def _refuse(chain: Chain, *, exact: bool) -> str | None:
    return (
        refuse_readers(chain, bit_equal=False)
        or refuse_quantize(chain)
        or refused_or_left(chain, rms_norm_quant, exact, *_arguments(chain, exact, rows_value, value_of))
    )


def _build(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    arguments = _arguments(chain, exact, functools.partial(rows_of, emit), lambda node: node)
    results = unpack(emit, emit(helion_kernel, *arguments, kernel=rms_norm_quant.name))
    outputs = quantizer_outputs(chain)
    if chain[Norm].meaning.residual:
        outputs.append((Norm, "sum"))
    if chain.wanted(Norm, "out"):
        outputs.append((Norm, "out"))
    return dict(zip(outputs, results, strict=True))


def _arguments(chain: Chain, exact: bool, rows: Any, value: Any) -> tuple[Any, ...]:
    norm, inputs = chain[Norm].meaning, chain.inputs
    scale, scale_ub = (None if node is None else value(node) for node in quantizer_inputs(chain))
    return (
        rows(inputs["x"]),
        value(inputs["weight"]) if norm.weight_dtype else None,
        value(inputs["bias"]) if norm.bias_dtype else None,
        rows(inputs["residual"]) if norm.residual else None,
        scale,
        scale_ub,
        norm.eps,
        _text(norm),
        quantizer_text(chain[Quantize].meaning),
        exact,
        bool(chain.wanted(Norm, "out")),
    )


def _text(norm: Norm) -> str:
    return normalization(
        norm.kind.value,
        cast_then_scale=norm.rounding is NormRounding.CAST_THEN_SCALE,
        dtype=None if norm.dtype == norm.x_dtype else norm.dtype,
        root=_ROOT[norm.root],
        factor_dtype=norm.factor_dtype,
        weight_offset=norm.weight_offset,
        residual_multiplier=norm.residual_multiplier,
        unrounded_sum=norm.unrounded_sum,
    )
