# SPDX-License-Identifier: Apache-2.0
"""Quantisers to fp8 with a scale a token or a tensor, as real models and libraries write them."""

from __future__ import annotations

import torch

from helion_compile.passes.ir.values import rounded
from helion_compile.passes.semantics import ScaleDivision, ScaleUse
from tests.support.conformance import Written
from tests.support.corpus.quantiser_rows import (
    E4M3,
    E5M2,
    FP32,
    FP64,
    STATIC,
    TENSOR,
    VLLM_FLOOR,
    own_dtype,
    written_into,
)

RECIPROCAL = ScaleUse.MULTIPLY_RECIPROCAL

FP8_QUANTISERS: list[Written] = []
written = written_into(FP8_QUANTISERS)


# fp8, one scale per token


@written("torchao: Float8DynamicActivationFloat8Weight, PerRow", scale_dtype=own_dtype)
def torchao_row(x):
    scale = (x.abs().amax(dim=-1, keepdim=True) / 448.0).to(FP32)
    return (x.to(FP32) / scale).clamp(min=-448.0, max=448.0).to(E4M3), scale


@written("the same to e5m2", scale_dtype=own_dtype, dtype=E5M2, qmax=57344.0)
def torchao_row_e5m2(x):
    scale = (x.abs().amax(dim=-1, keepdim=True) / 57344.0).to(FP32)
    return (x.to(FP32) / scale).clamp(min=-57344.0, max=57344.0).to(E5M2), scale


@written(
    "torchao: activation_value_lb and _ub",
    scale_dtype=own_dtype,
    amax_floor=lambda dtype: rounded(1e-3, dtype),
    amax_ceiling=lambda dtype: rounded(2.1, dtype),
)
def torchao_row_bounds(x):
    amax = x.abs().amax(dim=-1, keepdim=True).to(FP32).clamp(min=1e-3, max=2.1).to(x.dtype)
    scale = (amax / 448.0).to(FP32)
    return (x.to(FP32) / scale).clamp(min=-448.0, max=448.0).to(E4M3), scale


@written(
    "torchao: float8 training, row-wise",
    scale_dtype=FP64,
    use=ScaleUse.MULTIPLY_FACTOR_INVERSE,
    amax_floor=1e-12,
)
def torchao_training_row(x):
    amax = x.abs().amax(dim=-1, keepdim=True).to(FP64)
    factor = (448.0 / amax.clamp(min=1e-12)).to(FP32)
    return (x.to(FP32) * factor).clamp(-448.0, 448.0).to(E4M3), factor.reciprocal()


@written("vLLM: QuantFP8, per token", use=RECIPROCAL, scale_floor=VLLM_FLOOR)
def vllm_token(x):
    amax = x.abs().max(dim=-1)[0].unsqueeze(-1).to(FP32)
    scale = (amax / 448.0).clamp(min=1.0 / (448.0 * 512.0))
    return (x.to(FP32) * scale.reciprocal()).clamp(-448.0, 448.0).to(E4M3), scale


@written(
    "vLLM: QuantFP8, per token with scale_ub",
    operands=("x", "scale_ub"),
    use=RECIPROCAL,
    scale_floor=VLLM_FLOOR,
    scale_ub=True,
)
def vllm_token_bound(x, scale_ub):
    amax = x.abs().max(dim=-1)[0].unsqueeze(-1).to(FP32).clamp(max=scale_ub)
    scale = (amax / 448.0).clamp(min=1.0 / (448.0 * 512.0))
    return (x.to(FP32) * scale.reciprocal()).clamp(-448.0, 448.0).to(E4M3), scale


@written("transformers: CompressedTensorsFP8Linear", scale_dtype=FP32, use=ScaleUse.DIVIDE, amax_of_zeros=1.0)
def compressed_tensors(x):
    x32 = x.to(FP32)
    amax = x32.abs().amax(dim=-1)
    scale = torch.where(amax > 0, amax, torch.ones_like(amax)) / 448.0
    return (x32 / scale.unsqueeze(-1)).clamp(-448.0, 448.0).to(E4M3), scale


@written("plain code: no clamp", amax_floor=1e-12, clamp=None)
def without_clamp(x):
    x32 = x.float()
    scale = x32.abs().max(dim=-1, keepdim=True).values.clamp_min(1e-12) / 448.0
    return (x32 / scale).to(E4M3), scale


@written("plain code: minimum and maximum with tensors, 1 / scale", use=RECIPROCAL, scale_floor=1e-6)
def tensor_bounds(x):
    x32 = x.float()
    scale = torch.maximum(x32.abs().amax(-1, keepdim=True) / 448.0, torch.full((), 1e-6))
    value = torch.maximum(x32 * (1.0 / scale), torch.full((), -448.0))
    return torch.minimum(value, torch.full((), 448.0)).to(E4M3), scale


@written("plain code: the scale in fp64", scale_dtype=FP64, amax_floor=1e-12)
def double_scale(x):
    amax = x.abs().amax(-1, keepdim=True).to(FP64).clamp(min=1e-12)
    scale = (amax / 448.0).to(FP32)
    return (x.float() / scale).clamp(-448, 448).to(E4M3), scale


@written("plain code: amax times a constant", division=ScaleDivision.RECIPROCAL)
def times_inverse_of_qmax(x):
    scale = x.abs().amax(-1, keepdim=True).float() * (1.0 / 448.0)
    return (x.float() / scale).clamp(-448, 448).to(E4M3), scale


@written("plain code: amax over a tensor that holds qmax", division=ScaleDivision.TENSOR)
def over_tensor(x):
    scale = x.abs().amax(-1, keepdim=True).float() / torch.full((), 448.0, device=x.device)
    return (x.float() / scale).clamp(-448, 448).to(E4M3), scale


@written("ROCm checkpoints: a narrower range", qmax=240.0)
def narrow_range(x):
    scale = x.abs().amax(-1, keepdim=True).float() / 240.0
    return (x.float() / scale).clamp(-240, 240).to(E4M3), scale


# fp8, one scale per tensor


@written("torchao: Float8DynamicActivationFloat8Weight, PerTensor", scale_dtype=own_dtype, **TENSOR)
def torchao_tensor(x):
    scale = (x.abs().amax(dim=tuple(range(x.dim())), keepdim=True) / 448.0).to(FP32)
    return (x.to(FP32) / scale).clamp(min=-448.0, max=448.0).to(E4M3), scale


@written("the same to e5m2", scale_dtype=own_dtype, dtype=E5M2, qmax=57344.0, **TENSOR)
def torchao_tensor_e5m2(x):
    scale = (x.abs().amax(dim=tuple(range(x.dim())), keepdim=True) / 57344.0).to(FP32)
    return (x.to(FP32) / scale).clamp(min=-57344.0, max=57344.0).to(E5M2), scale


@written(
    "torchao: float8 training, tensor-wise",
    scale_dtype=FP64,
    use=ScaleUse.MULTIPLY_FACTOR_INVERSE,
    amax_floor=1e-12,
    **TENSOR,
)
def torchao_training_tensor(x):
    factor = (448.0 / torch.max(torch.abs(x)).to(FP64).clamp(min=1e-12)).to(FP32)
    return (x.to(FP32) * factor).clamp(-448.0, 448.0).to(E4M3), factor.reciprocal()


@written("vLLM: QuantFP8, per tensor", use=RECIPROCAL, scale_floor=VLLM_FLOOR, **TENSOR)
def vllm_tensor(x):
    amax = x.abs().max().unsqueeze(-1).to(FP32)
    scale = (amax / 448.0).clamp(min=1.0 / (448.0 * 512.0))
    return (x.to(FP32) * scale.reciprocal()).clamp(-448.0, 448.0).to(E4M3), scale


@written("vLLM: QuantFP8, static", operands=("x", "scale"), use=RECIPROCAL, **STATIC)
def vllm_static(x, scale):
    return (x.to(FP32) * scale.reciprocal()).clamp(-448.0, 448.0).to(E4M3)


@written("torchao: static", operands=("x", "scale"), **STATIC)
def torchao_static(x, scale):
    return (x.to(FP32) / scale).clamp(-448.0, 448.0).to(E4M3)


@written("the same to e5m2", operands=("x", "scale"), dtype=E5M2, qmax=57344.0, **STATIC)
def static_e5m2(x, scale):
    return (x.to(FP32) / scale).clamp(-57344.0, 57344.0).to(E5M2)
