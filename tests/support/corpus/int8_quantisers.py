# SPDX-License-Identifier: Apache-2.0
"""Quantisers to int8, with zero points and without, as real models and libraries write them."""

from __future__ import annotations

import torch

from helion_compile.passes.ir.values import rounded
from helion_compile.passes.semantics import ScaleUse
from tests.support.conformance import Written
from tests.support.corpus.quantiser_rows import (
    FP32,
    STATIC,
    TENSOR,
    own_dtype,
    written_into,
)

RECIPROCAL = ScaleUse.MULTIPLY_RECIPROCAL
INT8 = torch.int8
EPS32 = torch.finfo(FP32).eps

INT8_QUANTISERS: list[Written] = []
written = written_into(INT8_QUANTISERS)


WHOLE = dict(dtype=INT8, clamp=(-128.0, 127.0))


@written("plain code: int8 per token", qmax=127.0, scale_floor=1e-7, **WHOLE)
def int8_token(x):
    scale = (x.abs().amax(-1, keepdim=True).float() / 127).clamp_min(1e-7)
    return (x.float() / scale).round().clamp(-128, 127).to(INT8), scale


@written("plain code: int8 per token, by the reciprocal, no clamp", dtype=INT8, qmax=127.0, clamp=None, use=RECIPROCAL)
def int8_token_reciprocal(x):
    x32 = x.float()
    scale = x32.abs().amax(-1, keepdim=True) / 127.0
    return (x32 * (1.0 / scale)).round().to(INT8), scale


@written(
    "compressed-tensors: int8 per token, clamped before it is rounded", qmax=127.5, scale_floor=rounded(EPS32, FP32), **WHOLE
)
def int8_clamp_then_round(x):
    low, high = torch.aminmax(x.float(), dim=-1, keepdim=True)
    low, high = torch.min(low, torch.zeros_like(low)), torch.max(high, torch.zeros_like(high))
    scale = (torch.max(torch.abs(low), torch.abs(high)) / (255 / 2)).clamp(min=EPS32)
    return (x.float() / scale).clamp(-128, 127).round().to(INT8), scale


def torchao_magnitude(x, dims):
    least = torch.min(x.amin(dims, keepdim=True), torch.zeros((), dtype=x.dtype))
    most = torch.max(x.amax(dims, keepdim=True), torch.zeros((), dtype=x.dtype))
    return torch.max(-least, most)


def torchao_int8(x, dims):
    scale = torchao_magnitude(x, dims) / 127.5
    scale = scale.to(FP32).clamp(min=EPS32).to(x.dtype).to(FP32)
    return torch.clamp(torch.round(x * (1.0 / scale)), -128, 127).to(INT8), scale


def floor_in(dtype):
    return rounded(EPS32, dtype)


@written(
    "torchao: Int8DynamicActivationInt8Weight",
    qmax=127.5,
    scale_dtype=own_dtype,
    scale_floor=floor_in,
    use=RECIPROCAL,
    **WHOLE,
)
def torchao_int8_row(x):
    return torchao_int8(x, [-1])


@written(
    "torchao: Int8DynamicActivationInt8Weight, PerTensor",
    qmax=127.5,
    scale_dtype=own_dtype,
    scale_floor=floor_in,
    use=RECIPROCAL,
    **WHOLE,
    **TENSOR,
)
def torchao_int8_tensor(x):
    return torchao_int8(x, list(range(x.dim())))


@written(
    "torchao: Int8StaticActivationInt8Weight",
    operands=("x", "scale"),
    qmax=127.0,
    use=RECIPROCAL,
    **WHOLE,
    **STATIC,
)
def torchao_int8_static(x, scale):
    return torch.clamp(torch.round(x * (1.0 / scale)), -128, 127).to(INT8)


@written("plain code: int8 static", operands=("x", "scale"), qmax=127.0, **WHOLE, **STATIC)
def int8_static(x, scale):
    return (x.float() / scale).round().clamp(-128, 127).to(INT8)


@written(
    "torchao: Int8DynamicActivationInt8Weight, ASYMMETRIC",
    qmax=255.0,
    zero_point=True,
    scale_dtype=own_dtype,
    scale_floor=floor_in,
    use=RECIPROCAL,
    **WHOLE,
)
def torchao_int8_range(x):
    least = torch.min(x.amin(-1, keepdim=True), torch.zeros((), dtype=x.dtype))
    most = torch.max(x.amax(-1, keepdim=True), torch.zeros((), dtype=x.dtype))
    scale = ((most - least) / 255.0).to(FP32).clamp(min=EPS32).to(x.dtype)
    zero = (-128 - torch.round(least / scale)).to(FP32).clamp(-128, 127).to(x.dtype).to(INT8)
    scale = scale.to(FP32)
    return torch.clamp(torch.round(x * (1.0 / scale)) + zero, -128, 127).to(INT8), scale, zero


@written("plain code: int8 with a zero point", qmax=255.0, zero_point=True, scale_floor=1e-7, **WHOLE)
def int8_range(x):
    x32 = x.float()
    least, most = x32.amin(-1, keepdim=True).clamp(max=0), x32.amax(-1, keepdim=True).clamp(min=0)
    scale = ((most - least) / 255).clamp_min(1e-7)
    zero = (-128 - (least / scale).round()).clamp(-128, 127).to(INT8)
    return ((x32 / scale).round() + zero).clamp(-128, 127).to(INT8), scale, zero
