"""Norm -> quantise: ``rms_norm_quant``."""

from __future__ import annotations

import functools
from typing import Any

import torch

from helion_compile.fusions.quantizing import quantize_arguments, refuse_quantize, refuse_readers
from helion_compile.fusions.tensors import Outputs, refused_by, rows_of, rows_value, unpack, value_of
from helion_compile.hop import helion_kernel
from helion_compile.kernels import rms_norm_quant
from passes.fusion import Chain, Emit, Fusion
from passes.meanings import Norm, NormKind, NormRoot, NormRounding, Quantize

__all__ = ["KERNELS", "fusion"]

KERNELS = (rms_norm_quant,)


def fusion(*, exact: bool) -> Fusion:
    """Norm -> Quantize as one ``rms_norm_quant``."""
    return Fusion(
        "rms_norm_quant",
        (Norm, Quantize),
        refuse=functools.partial(_refuse, exact=exact),
        build=functools.partial(_build, exact=exact),
    )


def _refuse(chain: Chain, *, exact: bool) -> str | None:
    norm = chain[Norm].meaning
    if norm.kind is not NormKind.RMS or norm.weight_offset or norm.bias_dtype or norm.residual_multiplier != 1:
        return f"the kernel computes RMSNorm with a plain weight and residual, found {norm}"
    if norm.root is not NormRoot.RSQRT or norm.factor_dtype != torch.float32 or norm.unrounded_sum:
        return f"the kernel multiplies by rsqrt in fp32 and normalises the rounded sum, found {norm}"
    if norm.dtype != norm.x_dtype:
        return f"the norm takes {norm.x_dtype} and gives {norm.dtype}; the kernel gives its input's dtype"
    return (
        refuse_readers(chain, bit_equal=False)
        or refuse_quantize(chain, exact)
        or refused_by(rms_norm_quant, *_arguments(chain, exact, rows_value, value_of))
    )


def _build(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    arguments = _arguments(chain, exact, functools.partial(rows_of, emit), lambda node: node)
    results = unpack(emit, emit(helion_kernel, *arguments, kernel=rms_norm_quant.key))
    outputs = {(Quantize, "q"): next(results), (Quantize, "scale"): next(results)}
    if chain[Norm].meaning.residual:
        outputs[Norm, "sum"] = next(results)
    if chain.wanted(Norm, "out"):
        outputs[Norm, "out"] = next(results)
    return outputs


def _arguments(chain: Chain, exact: bool, rows: Any, value: Any) -> tuple[Any, ...]:
    norm, inputs = chain[Norm].meaning, chain.inputs
    return (
        rows(inputs["x"]),
        value(inputs["weight"]) if norm.weight_dtype else None,
        rows(inputs["residual"]) if norm.residual else None,
        norm.eps,
        norm.rounding is NormRounding.CAST_THEN_SCALE,
        *quantize_arguments(chain),
        exact,
        bool(chain.wanted(Norm, "out")),
    )
