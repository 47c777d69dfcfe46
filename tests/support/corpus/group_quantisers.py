# SPDX-License-Identifier: Apache-2.0
"""Quantisers to fp8 with a scale a group, and scales that are powers of two, as libraries write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from helion_compile.passes.semantics import Granularity, ScaleFormat, ScaleLayout, ScaleUse
from tests.support.conformance import Written
from tests.support.corpus.quantiser_rows import (
    E4M3,
    E5M2,
    FP32,
    VLLM_FLOOR,
    own_dtype,
    written_into,
)

RECIPROCAL = ScaleUse.MULTIPLY_RECIPROCAL
MATRIX = (6, 256)  # six rows: no multiple of four, so that TMA's alignment shows

GROUP_QUANTISERS: list[Written] = []
written = written_into(GROUP_QUANTISERS)


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


@written("plain code: groups of 128 to e5m2", sizes=MATRIX, dtype=E5M2, qmax=57344.0, **group_of(128))
def group_e5m2(x):
    grouped = x.unflatten(-1, (-1, 128))
    scale = grouped.abs().amax(-1, keepdim=True).float() / 57344.0
    return (grouped / scale).clamp(-57344.0, 57344.0).to(E5M2).flatten(-2), scale.squeeze(-1)


@written("vLLM: QuantFP8, groups of 128", sizes=(2, 3, 256), scale_floor=VLLM_FLOOR, **group_of(128))
def vllm_group_128(x):
    return vllm_group(x, 128)


@written("vLLM: QuantFP8, groups of 64", sizes=MATRIX, scale_floor=VLLM_FLOOR, **group_of(64))
def vllm_group_64(x):
    return vllm_group(x, 64)


@written(
    "vLLM: QuantFP8, groups, column_major_scales",
    sizes=MATRIX,
    scale_floor=VLLM_FLOOR,
    scale_layout=ScaleLayout.COLUMN_MAJOR,
    **group_of(128),
)
def vllm_group_columns(x):
    q, scale = vllm_group(x, 128)
    return q, scale.transpose(-2, -1).contiguous().transpose(-1, -2)


@written(
    "vLLM: QuantFP8, groups, use_ue8m0",
    sizes=MATRIX,
    scale_floor=VLLM_FLOOR,
    scale_format=ScaleFormat.UE8M0,
    **group_of(128),
)
def vllm_group_power(x):
    return vllm_group(x, 128, power=True)


@written(
    "vLLM 0.33: QuantFP8, groups, use_ue8m0",
    sizes=MATRIX,
    scale_floor=2.0**-17,
    scale_format=ScaleFormat.UE8M0,
    **group_of(128),
)
def vllm_group_power_of_bounded(x):
    return vllm_group(x, 128, power=True, bound_first=True)


@written(
    "plain code: bounded before and behind a power of two",
    sizes=MATRIX,
    scale_floor=2.0**-10,
    scale_format=ScaleFormat.UE8M0,
)
def power_between_bounds(x):
    scale = (x.abs().amax(-1, keepdim=True).float() / 448.0).clamp(min=0.0009)
    scale = torch.exp2(torch.ceil(torch.log2(scale))).clamp(min=1e-6)
    return (x / scale).clamp(-448.0, 448.0).to(E4M3), scale


@written(
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


@written("torchao: Float8DynamicActivationFloat8Weight, PerBlock", sizes=(2, 3, 256), scale_dtype=own_dtype, **group_of(128))
def torchao_block(x):
    amax = x.unflatten(-1, (-1, 128)).abs().amax(-1, keepdim=True)
    scale = (amax / 448.0).squeeze(-1).to(FP32)
    return (x.to(FP32) / scale.repeat_interleave(128, -1)).clamp(min=-448.0, max=448.0).to(E4M3), scale


DEEPGEMM = dict(amax_floor=1e-4, clamp=None, **group_of(128))


def deepgemm_amax(x):
    grouped = x.view(x.shape[0], -1, 128)
    return grouped, grouped.abs().float().amax(dim=2).view(x.shape[0], -1).clamp(1e-4)


@written("DeepGEMM: per_token_cast_to_fp8 of 2025", sizes=MATRIX, use=ScaleUse.MULTIPLY_FACTOR, **DEEPGEMM)
def deepgemm_factor(x):
    grouped, amax = deepgemm_amax(x)
    q = (grouped * (448.0 / amax.unsqueeze(2))).to(E4M3).view(x.shape)
    return q, amax / 448.0


@written("DeepGEMM: per_token_cast_to_fp8", sizes=MATRIX, use=RECIPROCAL, **DEEPGEMM)
def deepgemm(x):
    grouped, amax = deepgemm_amax(x)
    scale = amax / 448.0
    return (grouped * (1.0 / scale.unsqueeze(2))).to(E4M3).view(x.shape), scale


@written(
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


@written(
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


@written(
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
