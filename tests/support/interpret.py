# SPDX-License-Identifier: Apache-2.0
"""What a semantic op's docstring promises, in plain torch, one step a line: the measure of whatever claims to read it."""

from __future__ import annotations

import math

import torch

from helion_compile.passes.semantics import (
    Activation,
    ActivationFunction,
    ActivationRounding,
    ComplexRope,
    Concat,
    Granularity,
    Matmul,
    Modulate,
    ModulateRounding,
    Norm,
    NormKind,
    NormRoot,
    NormRounding,
    Quantize,
    Rope,
    RopePairs,
    RopeRounding,
    RopeTable,
    ScaleDivision,
    ScaleFormat,
    ScaleLayout,
    ScaleUse,
)

FP32 = torch.float32


def norm(op: Norm, x, weight=None, bias=None, residual=None, gate=None):
    """{"out": …, "sum": …}"""
    outputs = {}
    if op.gate_dtype:
        x = outputs["sum"] = (x * gate + residual).to(op.x_dtype)
    elif op.residual:
        scaled = x if op.residual_multiplier == 1 else x * op.residual_multiplier
        total = scaled + residual
        outputs["sum"] = total
        x = scaled.float() + residual.float() if op.unrounded_sum else total
    value = x.float()
    if op.kind is NormKind.LAYER:
        value = value - value.mean(-1, keepdim=True)
    under = value.pow(2).mean(-1, keepdim=True) + op.eps
    if op.root is NormRoot.RSQRT:
        value = value * under.rsqrt().to(op.factor_dtype)
    elif op.root is NormRoot.SQRT:
        value = value / under.sqrt().to(op.factor_dtype)
    else:
        value = value * (1 / under.sqrt()).to(op.factor_dtype)
    if op.rounding is NormRounding.CAST_THEN_SCALE:
        value = value.to(op.x_dtype)
    last = op.dtype if op.rounding is NormRounding.CAST_THEN_SCALE else FP32
    if weight is not None:
        factor = weight.float() + op.weight_offset if op.weight_offset else weight.float()
        value = (value.float() * factor).to(last)
    if bias is not None:
        value = (value.float() + bias.float()).to(last)
    return {"out": value.to(op.dtype), **outputs}


def modulate(op: Modulate, x, mod_scale, mod_shift=None):
    """{"out": …}"""
    steps = op.x_dtype if op.rounding is ModulateRounding.EVERY_STEP else FP32
    rows = [row.to(steps) for row in (mod_scale, mod_shift) if row is not None]
    value = x.to(steps) * (rows[0] + op.scale_offset)
    if op.shift_dtype:
        value = value + rows[1]
    return {"out": value.to(op.dtype)}


def concat(op: Concat, front, back):
    """{"out": …}"""
    return {"out": torch.cat((front, back), -1)}


def quantize(op: Quantize, x, scale=None, scale_ub=None):
    """{"q": …, "scale": …, "zero": …}"""
    rows = x.reshape(*x.shape[:-1], -1, op.group) if op.granularity is Granularity.GROUP else x
    values = rows.to(FP32)
    if not op.dynamic:
        return {"q": _narrow(op, _applied(op, values, scale.reshape(()), None)).reshape(x.shape)}
    dims = tuple(range(x.dim())) if op.granularity is Granularity.TENSOR else (-1,)
    if op.zero_point:
        scale, zero = _range(op, rows, dims)
        q = _narrow(op, _applied(op, values, scale, None), zero)
        return {"q": q.reshape(x.shape), "scale": scale, "zero": zero}
    amax = rows.abs().amax(dims, keepdim=True)
    # Every bound is rounded to the magnitude's dtype already where the model computes there, so fp64 loses nothing.
    amax = amax.to(torch.promote_types(torch.promote_types(op.scale_dtype, amax.dtype), FP32))
    if op.scale_ub:
        amax = torch.minimum(amax, scale_ub.to(amax.dtype))
    if op.amax_ceiling is not None:
        amax = amax.clamp(max=op.amax_ceiling)
    if op.amax_floor is not None:
        amax = amax.clamp(min=op.amax_floor)
    if op.amax_of_zeros is not None:
        amax = torch.where(amax > 0, amax, op.amax_of_zeros)
    amax = amax.to(op.scale_dtype)
    factor = (amax.reciprocal() * op.qmax).to(FP32)
    scale = _divided(op, amax).to(FP32)
    if op.use is ScaleUse.MULTIPLY_QUOTIENT:
        factor = torch.full_like(amax, op.qmax) / amax
    if op.use in (ScaleUse.MULTIPLY_FACTOR_INVERSE, ScaleUse.MULTIPLY_QUOTIENT):
        scale = factor.reciprocal()
    if op.scale_format is ScaleFormat.UE8M0:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    if op.scale_floor is not None:
        scale = scale.clamp(min=op.scale_floor)
    q = _narrow(op, _applied(op, values, scale, factor)).reshape(x.shape)
    return {"q": q, "scale": _laid_out(op, scale)}


def _divided(op, amax):
    if op.division is ScaleDivision.NUMBER:
        return amax / op.qmax
    if op.division is ScaleDivision.TENSOR:
        return amax / torch.full((), op.qmax, dtype=amax.dtype)
    return amax * (1 / op.qmax)


def _range(op, rows, dims):
    low, high = op.clamp
    least = rows.amin(dims, keepdim=True).clamp(max=0).to(op.scale_dtype)
    most = rows.amax(dims, keepdim=True).clamp(min=0).to(op.scale_dtype)
    scale = _divided(op, most - least).to(FP32)
    if op.scale_floor is not None:
        scale = scale.clamp(min=op.scale_floor)
    zero = low - torch.round(least / scale.to(op.scale_dtype))
    return scale, zero.clamp(low, high).to(torch.int8)


def _applied(op, values, scale, factor):
    if op.use is ScaleUse.DIVIDE:
        return values / scale
    if op.use is ScaleUse.MULTIPLY_RECIPROCAL:
        return values * (1 / scale)
    return values * factor


def _narrow(op, values, zero=None):
    if not op.dtype.is_floating_point:
        values = torch.round(values)
    if zero is not None:
        values = values + zero
    if op.clamp:
        values = values.clamp(*op.clamp)
    return values.to(op.dtype)


def _laid_out(op, scale):
    if op.granularity is not Granularity.GROUP or op.scale_layout is ScaleLayout.ROW_MAJOR:
        return scale
    scale = scale.flatten(0, -3).squeeze(-1)  # [M, groups], however many dimensions the rows have
    rows, groups = scale.shape
    aligned = -(-rows // 4) * 4 if op.scale_layout is ScaleLayout.TMA_ALIGNED else rows
    laid_out = torch.empty_strided((rows, groups), (1, aligned))
    laid_out.copy_(scale)
    return laid_out


def activation(op: Activation, x, up=None):
    """{"out": …}"""
    dtype = op.x_dtype if op.rounding is ActivationRounding.EVERY_STEP else FP32
    if op.limit is not None:
        x, up = x.clamp(max=op.limit), up.clamp(-op.limit, op.limit)
    value = _FUNCTIONS[op.function](x.to(dtype))
    if op.gated:
        value = value.to(op.dtype) if op.rounding is ActivationRounding.FUNCTION else value
        up = up if op.rounding is ActivationRounding.FUNCTION else up.to(dtype)
        value = value.to(dtype) * (up + op.up_offset).to(dtype)
    return {"out": value.to(op.dtype)}


def _gelu_tanh(x):
    cube = x * x * x if x.dtype is FP32 else x.pow(3)
    return (x * 0.5) * (torch.tanh((x + cube * 0.044715) * math.sqrt(2 / math.pi)) + 1)


def _gelu_tanh_factored(x):
    inner = x * math.sqrt(2 / math.pi) * (x * 0.044715 * x + 1)
    return (x * 0.5) * (torch.tanh(inner) + 1)


_FUNCTIONS = {
    ActivationFunction.SILU: lambda x: x / (1 + torch.exp(-x)),
    ActivationFunction.SILU_SIGMOID: lambda x: x * torch.sigmoid(x),
    ActivationFunction.GELU: lambda x: (x * 0.5) * (torch.erf(x * math.sqrt(0.5)) + 1),
    ActivationFunction.GELU_DIVIDED: lambda x: (x * 0.5) * (torch.erf(x / math.sqrt(2)) + 1),
    ActivationFunction.GELU_TANH: _gelu_tanh,
    ActivationFunction.GELU_TANH_FACTORED: _gelu_tanh_factored,
    ActivationFunction.RELU_SQUARED: lambda x: x.clamp(min=0) * x.clamp(min=0),
    ActivationFunction.RELU: lambda x: x.clamp(min=0),
    ActivationFunction.QUICK_GELU: lambda x: x * torch.sigmoid(x * 1.702),
}


def rope(op: Rope | ComplexRope, x, cos=None, sin=None, freqs=None):
    """{"out": …}"""
    if isinstance(op, ComplexRope):
        pairs, steps, cos, sin = RopePairs.INTERLEAVED, op.computed, freqs.real, freqs.imag
    else:
        pairs, steps = op.pairs, op.x_dtype if op.rounding is RopeRounding.EVERY_STEP else FP32
    if op.transposed:
        x = x.transpose(1, 2)
    spots = [slice(0, op.rotary_dim // 2), slice(op.rotary_dim // 2, op.rotary_dim)]
    if pairs is RopePairs.INTERLEAVED:
        spots = [slice(0, op.rotary_dim, 2), slice(1, op.rotary_dim, 2)]
    x1, x2 = (x[..., spot].to(steps) for spot in spots)
    each = not isinstance(op, ComplexRope) and op.table is RopeTable.ELEMENT
    (cos1, cos2), (sin1, sin2) = ([table[..., spot].to(steps) if each else table for spot in spots] for table in (cos, sin))
    if getattr(op, "inverse", False):
        sin1, sin2 = -sin1, -sin2
    out = x.to(op.dtype, copy=True)
    out[..., spots[0]] = (x1 * cos1 - x2 * sin1).to(op.dtype)
    out[..., spots[1]] = (x2 * cos2 + x1 * sin2).to(op.dtype)
    return {"out": out}


def matmul(op: Matmul, a, b, a_scale, b_scale, bias=None):
    """{"out": …}; sums of fp8 products are in fp32, in the order of torch.matmul."""
    if op.b_is_rows:
        b, b_scale = b.t(), b_scale.t() if op.b_scales is Granularity.GROUP else b_scale
    if op.a_scales is Granularity.TOKEN:
        a_scale = a_scale.reshape(-1, 1)
    if op.b_scales is Granularity.TOKEN:
        b_scale = b_scale.reshape(1, -1)
    if op.operands.is_floating_point:
        value = (a.float() * spread(a_scale, a)) @ (b.float() * spread(b_scale, b))
    else:
        value = (a.int() @ b.int()).to(op.scale_dtype)
        first, second = (a_scale, b_scale) if op.a_scale_first else (b_scale, a_scale)
        value = (value * first).to(op.between_dtype or op.scale_dtype) * second
    if bias is not None:
        value = value + bias
    return {"out": value.to(op.dtype)}


def spread(scale, values):
    """Scales of blocks as fp32 [rows, columns], one for each of ``values``; others as they are."""
    scale = scale.float()
    for dim in range(scale.dim()):
        size, blocks = values.shape[dim], scale.shape[dim]
        if blocks not in (1, size):
            scale = scale.repeat_interleave(-(-size // blocks), dim)[(slice(None),) * dim + (slice(size),)]
    return scale
