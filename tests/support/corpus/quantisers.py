# SPDX-License-Identifier: Apache-2.0
"""Quantisers as real models and libraries write them, each with what it is to be read as: rows of the conformance table."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from helion_compile.passes.ir.values import rounded
from helion_compile.passes.semantics import Granularity, Quantize, ScaleDivision, ScaleFormat, ScaleLayout, ScaleUse
from tests.support.conformance import Spelled

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
E4M3, E5M2, INT8 = torch.float8_e4m3fn, torch.float8_e5m2, torch.int8
DIVIDE, RECIPROCAL = ScaleUse.DIVIDE, ScaleUse.MULTIPLY_RECIPROCAL
TENSOR = dict(granularity=Granularity.TENSOR)
STATIC = dict(granularity=Granularity.TENSOR, dynamic=False)
ROWS = (3, 5, 64)
MATRIX = (6, 256)  # six rows: no multiple of four, so that TMA's alignment shows
VLLM_FLOOR = rounded(1 / (448 * 512), FP32)
EPS32 = torch.finfo(FP32).eps

QUANTISERS: list[Spelled] = []
OPAQUE_QUANTISERS: list[Spelled] = []  # by operators that need not be there: stubs.libraries()


def spelled(who, *, dtypes=(BF16, FP16, FP32), operands=("x",), sizes=ROWS, exact=True, rows=QUANTISERS, **attributes):
    """A row.  ``attributes`` are the semantic op's, or a function of x's dtype."""

    def add(function):
        def op(dtype):
            given = {key: value(dtype) if callable(value) else value for key, value in attributes.items()}
            bound = given.get("qmax", 448.0)
            facts = dict(x_dtype=dtype, dtype=E4M3, qmax=bound, scale_dtype=FP32, use=DIVIDE, clamp=(-bound, bound))
            return Quantize(**facts | given)

        rows.append(Spelled(who, function, operands, op, dtypes, exact, sizes=sizes))
        return function

    return add


def own(dtype):
    return dtype


# fp8, one scale per token


@spelled("torchao: Float8DynamicActivationFloat8Weight, PerRow", scale_dtype=own)
def torchao_row(x):
    scale = (x.abs().amax(dim=-1, keepdim=True) / 448.0).to(FP32)
    return (x.to(FP32) / scale).clamp(min=-448.0, max=448.0).to(E4M3), scale


@spelled("the same to e5m2", scale_dtype=own, dtype=E5M2, qmax=57344.0)
def torchao_row_e5m2(x):
    scale = (x.abs().amax(dim=-1, keepdim=True) / 57344.0).to(FP32)
    return (x.to(FP32) / scale).clamp(min=-57344.0, max=57344.0).to(E5M2), scale


@spelled(
    "torchao: activation_value_lb and _ub",
    scale_dtype=own,
    amax_floor=lambda dtype: rounded(1e-3, dtype),
    amax_ceiling=lambda dtype: rounded(2.1, dtype),
)
def torchao_row_bounds(x):
    amax = x.abs().amax(dim=-1, keepdim=True).to(FP32).clamp(min=1e-3, max=2.1).to(x.dtype)
    scale = (amax / 448.0).to(FP32)
    return (x.to(FP32) / scale).clamp(min=-448.0, max=448.0).to(E4M3), scale


@spelled(
    "torchao: float8 training, row-wise",
    scale_dtype=FP64,
    use=ScaleUse.MULTIPLY_FACTOR_INVERSE,
    amax_floor=1e-12,
)
def torchao_training_row(x):
    amax = x.abs().amax(dim=-1, keepdim=True).to(FP64)
    factor = (448.0 / amax.clamp(min=1e-12)).to(FP32)
    return (x.to(FP32) * factor).clamp(-448.0, 448.0).to(E4M3), factor.reciprocal()


@spelled("vLLM: QuantFP8, per token", use=RECIPROCAL, scale_floor=VLLM_FLOOR)
def vllm_token(x):
    amax = x.abs().max(dim=-1)[0].unsqueeze(-1).to(FP32)
    scale = (amax / 448.0).clamp(min=1.0 / (448.0 * 512.0))
    return (x.to(FP32) * scale.reciprocal()).clamp(-448.0, 448.0).to(E4M3), scale


@spelled(
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


@spelled("transformers: CompressedTensorsFP8Linear", scale_dtype=FP32, use=DIVIDE, amax_of_zeros=1.0)
def compressed_tensors(x):
    x32 = x.to(FP32)
    amax = x32.abs().amax(dim=-1)
    scale = torch.where(amax > 0, amax, torch.ones_like(amax)) / 448.0
    return (x32 / scale.unsqueeze(-1)).clamp(-448.0, 448.0).to(E4M3), scale


@spelled("plain code: no clamp", amax_floor=1e-12, clamp=None)
def without_clamp(x):
    x32 = x.float()
    scale = x32.abs().max(dim=-1, keepdim=True).values.clamp_min(1e-12) / 448.0
    return (x32 / scale).to(E4M3), scale


@spelled("plain code: minimum and maximum with tensors, 1 / scale", use=RECIPROCAL, scale_floor=1e-6)
def tensor_bounds(x):
    x32 = x.float()
    scale = torch.maximum(x32.abs().amax(-1, keepdim=True) / 448.0, torch.full((), 1e-6))
    value = torch.maximum(x32 * (1.0 / scale), torch.full((), -448.0))
    return torch.minimum(value, torch.full((), 448.0)).to(E4M3), scale


@spelled("plain code: the scale in fp64", scale_dtype=FP64, amax_floor=1e-12)
def double_scale(x):
    amax = x.abs().amax(-1, keepdim=True).to(FP64).clamp(min=1e-12)
    scale = (amax / 448.0).to(FP32)
    return (x.float() / scale).clamp(-448, 448).to(E4M3), scale


@spelled("plain code: amax times a constant", division=ScaleDivision.RECIPROCAL)
def times_inverse_of_qmax(x):
    scale = x.abs().amax(-1, keepdim=True).float() * (1.0 / 448.0)
    return (x.float() / scale).clamp(-448, 448).to(E4M3), scale


@spelled("plain code: amax over a tensor that holds qmax", division=ScaleDivision.TENSOR)
def over_tensor(x):
    scale = x.abs().amax(-1, keepdim=True).float() / torch.full((), 448.0, device=x.device)
    return (x.float() / scale).clamp(-448, 448).to(E4M3), scale


@spelled("ROCm checkpoints: a narrower range", qmax=240.0)
def narrow_range(x):
    scale = x.abs().amax(-1, keepdim=True).float() / 240.0
    return (x.float() / scale).clamp(-240, 240).to(E4M3), scale


# fp8, one scale per tensor


@spelled("torchao: Float8DynamicActivationFloat8Weight, PerTensor", scale_dtype=own, **TENSOR)
def torchao_tensor(x):
    scale = (x.abs().amax(dim=tuple(range(x.dim())), keepdim=True) / 448.0).to(FP32)
    return (x.to(FP32) / scale).clamp(min=-448.0, max=448.0).to(E4M3), scale


@spelled("the same to e5m2", scale_dtype=own, dtype=E5M2, qmax=57344.0, **TENSOR)
def torchao_tensor_e5m2(x):
    scale = (x.abs().amax(dim=tuple(range(x.dim())), keepdim=True) / 57344.0).to(FP32)
    return (x.to(FP32) / scale).clamp(min=-57344.0, max=57344.0).to(E5M2), scale


@spelled(
    "torchao: float8 training, tensor-wise",
    scale_dtype=FP64,
    use=ScaleUse.MULTIPLY_FACTOR_INVERSE,
    amax_floor=1e-12,
    **TENSOR,
)
def torchao_training_tensor(x):
    factor = (448.0 / torch.max(torch.abs(x)).to(FP64).clamp(min=1e-12)).to(FP32)
    return (x.to(FP32) * factor).clamp(-448.0, 448.0).to(E4M3), factor.reciprocal()


@spelled("vLLM: QuantFP8, per tensor", use=RECIPROCAL, scale_floor=VLLM_FLOOR, **TENSOR)
def vllm_tensor(x):
    amax = x.abs().max().unsqueeze(-1).to(FP32)
    scale = (amax / 448.0).clamp(min=1.0 / (448.0 * 512.0))
    return (x.to(FP32) * scale.reciprocal()).clamp(-448.0, 448.0).to(E4M3), scale


@spelled("vLLM: QuantFP8, static", operands=("x", "scale"), use=RECIPROCAL, **STATIC)
def vllm_static(x, scale):
    return (x.to(FP32) * scale.reciprocal()).clamp(-448.0, 448.0).to(E4M3)


@spelled("torchao: static", operands=("x", "scale"), **STATIC)
def torchao_static(x, scale):
    return (x.to(FP32) / scale).clamp(-448.0, 448.0).to(E4M3)


@spelled("the same to e5m2", operands=("x", "scale"), dtype=E5M2, qmax=57344.0, **STATIC)
def static_e5m2(x, scale):
    return (x.to(FP32) / scale).clamp(-57344.0, 57344.0).to(E5M2)


# fp8, one scale per group


def group_of(size, **facts):
    return dict(granularity=Granularity.GROUP, group=size, **facts)


def vllm_group(x, size, power=False, bound_first=False):
    grouped = x.view(-1, x.shape[-1] // size, size)
    scale = grouped.abs().max(dim=-1, keepdim=True)[0].float() / 448.0
    if bound_first:
        scale = scale.clamp(min=1.0 / (448.0 * 512.0))
    if power:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    if not bound_first:
        scale = scale.clamp(min=1.0 / (448.0 * 512.0))
    q = (grouped / scale).clamp(-448.0, 448.0).to(E4M3).view(x.shape)
    return q, scale.squeeze(-1).reshape(x.shape[:-1] + (x.shape[-1] // size,))


@spelled("plain code: groups of 128 to e5m2", sizes=MATRIX, dtype=E5M2, qmax=57344.0, **group_of(128))
def group_e5m2(x):
    grouped = x.unflatten(-1, (-1, 128))
    scale = grouped.abs().amax(-1, keepdim=True).float() / 57344.0
    return (grouped / scale).clamp(-57344.0, 57344.0).to(E5M2).flatten(-2), scale.squeeze(-1)


@spelled("vLLM: QuantFP8, groups of 128", sizes=(2, 3, 256), scale_floor=VLLM_FLOOR, **group_of(128))
def vllm_group_128(x):
    return vllm_group(x, 128)


@spelled("vLLM: QuantFP8, groups of 64", sizes=MATRIX, scale_floor=VLLM_FLOOR, **group_of(64))
def vllm_group_64(x):
    return vllm_group(x, 64)


@spelled(
    "vLLM: QuantFP8, groups, column_major_scales",
    sizes=MATRIX,
    scale_floor=VLLM_FLOOR,
    scale_layout=ScaleLayout.COLUMN_MAJOR,
    **group_of(128),
)
def vllm_group_columns(x):
    q, scale = vllm_group(x, 128)
    return q, scale.transpose(-2, -1).contiguous().transpose(-1, -2)


@spelled(
    "vLLM: QuantFP8, groups, use_ue8m0",
    sizes=MATRIX,
    scale_floor=VLLM_FLOOR,
    scale_format=ScaleFormat.UE8M0,
    **group_of(128),
)
def vllm_group_power(x):
    return vllm_group(x, 128, power=True)


@spelled(
    "vLLM 0.33: QuantFP8, groups, use_ue8m0",
    sizes=MATRIX,
    scale_floor=2.0**-17,
    scale_format=ScaleFormat.UE8M0,
    **group_of(128),
)
def vllm_group_power_of_bounded(x):
    return vllm_group(x, 128, power=True, bound_first=True)


@spelled(
    "plain code: bounded before and behind a power of two",
    sizes=MATRIX,
    scale_floor=2.0**-10,
    scale_format=ScaleFormat.UE8M0,
)
def power_between_bounds(x):
    scale = (x.abs().amax(-1, keepdim=True).float() / 448.0).clamp(min=0.0009)
    scale = torch.exp2(torch.ceil(torch.log2(scale))).clamp(min=1e-6)
    return (x / scale).clamp(-448.0, 448.0).to(E4M3), scale


@spelled(
    "vLLM: the same, column_major_scales",
    sizes=MATRIX,
    scale_floor=VLLM_FLOOR,
    scale_format=ScaleFormat.UE8M0,
    scale_layout=ScaleLayout.COLUMN_MAJOR,
    **group_of(64),
)
def vllm_group_power_columns(x):
    q, scale = vllm_group(x, 64, power=True)
    return q, scale.transpose(-2, -1).contiguous().transpose(-1, -2)


@spelled("torchao: Float8DynamicActivationFloat8Weight, PerBlock", sizes=(2, 3, 256), scale_dtype=own, **group_of(128))
def torchao_block(x):
    amax = x.unflatten(-1, (-1, 128)).abs().amax(-1, keepdim=True)
    scale = (amax / 448.0).squeeze(-1).to(FP32)
    return (x.to(FP32) / scale.repeat_interleave(128, -1)).clamp(min=-448.0, max=448.0).to(E4M3), scale


DEEPGEMM = dict(amax_floor=1e-4, clamp=None, **group_of(128))


def deepgemm_amax(x):
    grouped = x.view(x.shape[0], -1, 128)
    return grouped, grouped.abs().float().amax(dim=2).view(x.shape[0], -1).clamp(1e-4)


@spelled("DeepGEMM: per_token_cast_to_fp8 of 2025", sizes=MATRIX, use=ScaleUse.MULTIPLY_FACTOR, **DEEPGEMM)
def deepgemm_factor(x):
    grouped, amax = deepgemm_amax(x)
    q = (grouped * (448.0 / amax.unsqueeze(2))).to(E4M3).view(x.shape)
    return q, amax / 448.0


@spelled("DeepGEMM: per_token_cast_to_fp8", sizes=MATRIX, use=RECIPROCAL, **DEEPGEMM)
def deepgemm(x):
    grouped, amax = deepgemm_amax(x)
    scale = amax / 448.0
    return (grouped * (1.0 / scale.unsqueeze(2))).to(E4M3).view(x.shape), scale


@spelled(
    "DeepGEMM: per_token_cast_to_fp8, use_ue8m0",
    sizes=MATRIX,
    use=RECIPROCAL,
    scale_format=ScaleFormat.UE8M0,
    **DEEPGEMM,
)
def deepgemm_power(x):
    grouped, amax = deepgemm_amax(x)
    scale = torch.pow(2.0, torch.ceil(torch.log2((amax / 448.0).abs())))
    return (grouped * (1.0 / scale.unsqueeze(2))).to(E4M3).view(x.shape), scale


@spelled(
    "DeepGEMM: get_col_major_tma_aligned_tensor",
    sizes=MATRIX,
    use=RECIPROCAL,
    scale_layout=ScaleLayout.TMA_ALIGNED,
    **DEEPGEMM,
)
def deepgemm_aligned(x):
    q, scale = deepgemm(x)
    rows, groups = scale.shape
    aligned = torch.empty((groups, (rows + 3) // 4 * 4), dtype=scale.dtype, device=scale.device).t()
    aligned[:rows, :] = scale
    return q, aligned[:rows, :]


@spelled(
    "plain code: TMA-aligned by padding",
    sizes=MATRIX,
    use=ScaleUse.MULTIPLY_FACTOR,
    scale_layout=ScaleLayout.TMA_ALIGNED,
    **DEEPGEMM,
)
def padded_columns(x):
    q, scale = deepgemm_factor(x)
    rows = scale.shape[0]
    return q, F.pad(scale, (0, 0, 0, (rows + 3) // 4 * 4 - rows)).t().contiguous().t()[:rows]


# int8


WHOLE = dict(dtype=INT8, clamp=(-128.0, 127.0))


@spelled("plain code: int8 per token", qmax=127.0, scale_floor=1e-7, **WHOLE)
def int8_token(x):
    scale = (x.abs().amax(-1, keepdim=True).float() / 127).clamp_min(1e-7)
    return (x.float() / scale).round().clamp(-128, 127).to(INT8), scale


@spelled("plain code: int8 per token, by the reciprocal, no clamp", dtype=INT8, qmax=127.0, clamp=None, use=RECIPROCAL)
def int8_token_reciprocal(x):
    x32 = x.float()
    scale = x32.abs().amax(-1, keepdim=True) / 127.0
    return (x32 * (1.0 / scale)).round().to(INT8), scale


@spelled(
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


@spelled(
    "torchao: Int8DynamicActivationInt8Weight",
    qmax=127.5,
    scale_dtype=own,
    scale_floor=floor_in,
    use=RECIPROCAL,
    **WHOLE,
)
def torchao_int8_row(x):
    return torchao_int8(x, [-1])


@spelled(
    "torchao: Int8DynamicActivationInt8Weight, PerTensor",
    qmax=127.5,
    scale_dtype=own,
    scale_floor=floor_in,
    use=RECIPROCAL,
    **WHOLE,
    **TENSOR,
)
def torchao_int8_tensor(x):
    return torchao_int8(x, list(range(x.dim())))


@spelled(
    "torchao: Int8StaticActivationInt8Weight",
    operands=("x", "scale"),
    qmax=127.0,
    use=RECIPROCAL,
    **WHOLE,
    **STATIC,
)
def torchao_int8_static(x, scale):
    return torch.clamp(torch.round(x * (1.0 / scale)), -128, 127).to(INT8)


@spelled("plain code: int8 static", operands=("x", "scale"), qmax=127.0, **WHOLE, **STATIC)
def int8_static(x, scale):
    return (x.float() / scale).round().clamp(-128, 127).to(INT8)


@spelled(
    "torchao: Int8DynamicActivationInt8Weight, ASYMMETRIC",
    qmax=255.0,
    zero_point=True,
    scale_dtype=own,
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


@spelled("plain code: int8 with a zero point", qmax=255.0, zero_point=True, scale_floor=1e-7, **WHOLE)
def int8_range(x):
    x32 = x.float()
    least, most = x32.amin(-1, keepdim=True).clamp(max=0), x32.amax(-1, keepdim=True).clamp(min=0)
    scale = ((most - least) / 255).clamp_min(1e-7)
    zero = (-128 - (least / scale).round()).clamp(-128, 127).to(INT8)
    return ((x32 / scale).round() + zero).clamp(-128, 127).to(INT8), scale, zero


# operators of libraries


def opaque(who, **attributes):
    return spelled(who, dtypes=(BF16,), rows=OPAQUE_QUANTISERS, **attributes)


TRITON = dict(use=ScaleUse.MULTIPLY_QUOTIENT, amax_floor=rounded(1e-12, FP32))
CUDA = dict(division=ScaleDivision.TENSOR, scale_floor=VLLM_FLOOR)


@opaque("`triton.quantize_fp8_row`: torchao with MSLK, PerRow", **TRITON)
def triton_row(x):
    return torch.ops.triton.quantize_fp8_row(x)


@opaque("the same with an upper bound", operands=("x", "scale_ub"), scale_ub=True, **TRITON)
def triton_row_bound(x, scale_ub):
    return torch.ops.triton.quantize_fp8_row(x, scale_ub)


@opaque("`fbgemm.quantize_fp8_per_row`: transformers: FbgemmFp8Linear", operands=("x", "scale_ub"), scale_ub=True, **CUDA)
def fbgemm_row(x, scale_ub):
    q, scale = torch.ops.fbgemm.quantize_fp8_per_row(x, scale_ub=scale_ub)
    return q, scale


@opaque("`mslk.quantize_fp8_per_row`: MSLK", **CUDA)
def mslk_row(x):
    q, scale = torch.ops.mslk.quantize_fp8_per_row(x)
    return q, scale
