"""Fusions whose replacement is one call of plain torch, with the arithmetic of the spelled code."""

from __future__ import annotations

import operator

import torch
from capture import scaled_mm

from passes.fusion import Fusion
from passes.meanings import Matmul, Meaning, Norm, NormRounding, Quantize, ScaleUse

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)

# Arguments of a node must be written in its code, which a Meaning cannot be: a node carries the index of one.
_MEANINGS: list[Meaning] = []


def number_of(meaning: Meaning) -> int:
    _MEANINGS.append(meaning)
    return len(_MEANINGS) - 1


def norm_reference(x, residual, weight, meaning):
    """The bits that a Norm's docstring promises: out, sum."""
    total = x if residual is None else x + residual
    x32 = total.float()
    value = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + meaning.eps)
    if meaning.rounding is NormRounding.CAST_THEN_SCALE:
        value = value.to(meaning.x_dtype)
    if weight is not None:
        value = value * weight
    return value.to(meaning.dtype), total


def quantize_reference(x, meaning):
    """The bits that a Quantize's docstring promises: q, scale."""
    amax = x.abs().amax(-1, keepdim=True).to(torch.promote_types(meaning.scale_dtype, x.dtype))
    if meaning.amax_floor is not None:
        amax = amax.clamp(min=meaning.amax_floor)
    scale = (amax.to(meaning.scale_dtype) / meaning.qmax).to(torch.float32)
    if meaning.scale_floor is not None:
        scale = scale.clamp(min=meaning.scale_floor)
    value = x.float() / scale if meaning.use is ScaleUse.DIVIDE else x.float() * scale.reciprocal()
    if meaning.clamp:
        value = value.clamp(-meaning.qmax, meaning.qmax)
    return value.to(meaning.dtype), scale


def norm_quantize(x, residual, weight, norm, quantize):
    """What the stub puts into the graph: out, sum, q, scale in one call."""
    out, total = norm_reference(x, residual, weight, _MEANINGS[norm])
    return (out, total, *quantize_reference(out, _MEANINGS[quantize]))


def norm_alone(x, residual, weight, norm):
    return norm_reference(x, residual, weight, _MEANINGS[norm])


def quantize_alone(x, quantize):
    return quantize_reference(x, _MEANINGS[quantize])


def matmul_alone(a, b, a_scale, b_scale, bias, dtype):
    return scaled_mm(a, b, a_scale, b_scale, bias, out_dtype=dtype)


def build_norm_quantize(chain, emit):
    inputs = chain.inputs
    call = emit(
        norm_quantize,
        inputs["x"],
        inputs.get("residual"),
        inputs.get("weight"),
        number_of(chain[Norm].meaning),
        number_of(chain[Quantize].meaning),
    )
    names = [(Norm, "out"), (Norm, "sum"), (Quantize, "q"), (Quantize, "scale")]
    return {
        (meaning, name): emit(operator.getitem, call, index)
        for index, (meaning, name) in enumerate(names)
        if chain.wanted(meaning, name)
    }


def build_norm(chain, emit):
    inputs = chain.inputs
    call = emit(norm_alone, inputs["x"], inputs.get("residual"), inputs.get("weight"), number_of(chain[Norm].meaning))
    return {(Norm, "out"): emit(operator.getitem, call, 0), (Norm, "sum"): emit(operator.getitem, call, 1)}


def build_quantize(chain, emit):
    call = emit(quantize_alone, chain.inputs["x"], number_of(chain[Quantize].meaning))
    return {(Quantize, "q"): emit(operator.getitem, call, 0), (Quantize, "scale"): emit(operator.getitem, call, 1)}


def build_matmul(chain, emit):
    names = ("a", "b", "a_scale", "b_scale", "bias")
    dtype = chain[Matmul].meaning.dtype
    return {(Matmul, "out"): emit(matmul_alone, *(chain.inputs.get(name) for name in names), dtype)}


NORM_QUANTIZE = Fusion("norm_quantize", (Norm, Quantize), build_norm_quantize)
NORM = Fusion("norm", (Norm,), build_norm)
QUANTIZE = Fusion("quantize", (Quantize,), build_quantize)
MATMUL = Fusion("matmul", (Matmul,), build_matmul)
ALL = (NORM_QUANTIZE, QUANTIZE)
