# SPDX-License-Identifier: Apache-2.0
"""Scaled products as real models and libraries write them, each with what it is to be read as: rows of the conformance table.

Dtypes are those of the result.  Functions get b as [K, N], column-major, or [N, K] where the library takes rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from helion_compile.passes.semantics import Granularity, Matmul
from tests.support.conformance import Written
from tests.support.needs import HAS_FUNCTIONAL_PRODUCTS, HAS_ROW_WISE_PRODUCTS

BF16, FP16, FP32, INT8 = torch.bfloat16, torch.float16, torch.float32, torch.int8
TENSOR, GROUP = Granularity.TENSOR, Granularity.GROUP
M, K, N = 16, 512, 256
FP8, FP8_V2 = "aten._scaled_mm", "aten._scaled_mm_v2"
PLAIN = ("a", "b", "a_scale", "b_scale")

PRODUCTS: list[Written] = []


def written(
    operator,
    who,
    *,
    dtypes=(BF16, FP16, FP32),
    bias=False,
    scales=((M, 1), (1, N)),
    between=False,
    runs=HAS_ROW_WISE_PRODUCTS,
    traced=True,
    told=True,
    **facts,
):
    """A row.  ``scales``: shapes of a's and b's; ``between``: rounded to the result's dtype between them.

    ``who`` begins with the operator at which it is read.
    """

    def add(function):
        def op(dtype):
            return Matmul(dtype=dtype, bias=bias, between_dtype=dtype if between else None, **facts)

        PRODUCTS.append(
            Written(
                f"`{operator}`: {who}",
                function,
                (*PLAIN, "bias") if bias else PLAIN,
                op,
                dtypes,
                exact=facts.get("operands") is INT8,
                sizes=(M, K, N),
                scales=scales,
                told=told,
                runs=runs and traced,
                traced=traced,
            )
        )
        return function

    return add


# --- aten._scaled_mm


@written(FP8, "plain code: a scale per row")
def scaled_rows(a, b, a_scale, b_scale, *, dtype):
    return torch._scaled_mm(a, b, a_scale, b_scale, out_dtype=dtype)


@written(FP8, "the same with a bias", dtypes=(BF16, FP16), bias=True)
def scaled_rows_bias(a, b, a_scale, b_scale, bias, *, dtype):
    return torch._scaled_mm(a, b, scale_a=a_scale, scale_b=b_scale, bias=bias, out_dtype=dtype)


@written(FP8, "torchao: Float8DynamicActivationFloat8Weight, PerRow", fast_accum=True)
def scaled_rows_fast(a, b, a_scale, b_scale, *, dtype):
    return torch._scaled_mm(a, b, a_scale, b_scale, out_dtype=dtype, use_fast_accum=True)


@written(FP8, "plain code: a scale per tensor", scales=((), ()), runs=True, a_scales=TENSOR, b_scales=TENSOR)
def scaled_tensors(a, b, a_scale, b_scale, *, dtype):
    return torch._scaled_mm(a, b, a_scale, b_scale, out_dtype=dtype)


@written(
    FP8,
    "torchao: Float8DynamicActivationFloat8Weight, PerTensor",
    dtypes=(BF16, FP16),
    bias=True,
    scales=((1, 1), (1, 1)),
    runs=True,
    a_scales=TENSOR,
    b_scales=TENSOR,
    fast_accum=True,
)
def scaled_tensors_bias(a, b, a_scale, b_scale, bias, *, dtype):
    return torch._scaled_mm(a, b, a_scale, b_scale, bias=bias, out_dtype=dtype, use_fast_accum=True)


@written(
    FP8,
    "plain code: 1 x 128 by 128 x 128",
    dtypes=(BF16,),
    scales=((M, 4), (4, 2)),
    runs=False,
    a_scales=GROUP,
    b_scales=GROUP,
)
def scaled_blocks(a, b, a_scale, b_scale, *, dtype):
    return torch._scaled_mm(a, b, a_scale, b_scale, out_dtype=dtype)


# --- aten._scaled_mm_v2


@written(FP8_V2, "transformers: CompressedTensorsFP8Linear, by F.scaled_mm", traced=HAS_FUNCTIONAL_PRODUCTS)
def functional_rows(a, b, a_scale, b_scale, *, dtype):
    by_row = F.ScalingType.RowWise
    return F.scaled_mm(a, b, a_scale, by_row, b_scale, by_row, output_dtype=dtype)


@written(FP8_V2, "the same with a bias", dtypes=(BF16, FP16), bias=True, traced=HAS_FUNCTIONAL_PRODUCTS, fast_accum=True)
def functional_rows_bias(a, b, a_scale, b_scale, bias, *, dtype):
    by_row = F.ScalingType.RowWise
    return F.scaled_mm(a, b, a_scale, by_row, b_scale, by_row, bias=bias, output_dtype=dtype, use_fast_accum=True)


@written(
    FP8_V2,
    "F.scaled_mm, a scale per tensor",
    scales=((1,), (1,)),
    traced=HAS_FUNCTIONAL_PRODUCTS,
    a_scales=TENSOR,
    b_scales=TENSOR,
)
def functional_tensors(a, b, a_scale, b_scale, *, dtype):
    by_tensor = F.ScalingType.TensorWise
    return F.scaled_mm(a, b, a_scale, by_tensor, b_scale, by_tensor, output_dtype=dtype)


@written(
    FP8_V2,
    "F.scaled_mm, 1 x 128 by 128 x 128",
    dtypes=(BF16,),
    scales=((M, 4), (4, 2)),
    traced=HAS_FUNCTIONAL_PRODUCTS,
    runs=False,
    a_scales=GROUP,
    b_scales=GROUP,
)
def functional_blocks(a, b, a_scale, b_scale, *, dtype):
    kinds = F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128
    return F.scaled_mm(a, b, a_scale, kinds[0], b_scale, kinds[1], output_dtype=dtype)


# --- aten._int_mm and the scales behind it: the sums are exact, so each step has its bits


def integers(who, **facts):
    return written("aten._int_mm", who, runs=True, operands=INT8, **facts)


@integers("plain code: a's scale first", a_scale_first=True)
def int8_rows_first(a, b, a_scale, b_scale, *, dtype):
    return (torch._int_mm(a, b).float() * a_scale * b_scale).to(dtype)


@integers("plain code: b's scale first", scales=((M, 1), (N,)))
def int8_columns_first(a, b, a_scale, b_scale, *, dtype):
    return (a_scale * (b_scale * torch._int_mm(a, b).float())).to(dtype)


@integers("plain code: with a bias in fp32", bias=True, a_scale_first=True)
def int8_bias(a, b, a_scale, b_scale, bias, *, dtype):
    return (torch._int_mm(a, b).float() * a_scale * b_scale + bias.float()).to(dtype)


@integers("plain code: a static scale for all of a", scales=((1, 1), (1, N)), a_scales=TENSOR, a_scale_first=True)
def int8_one_scale(a, b, a_scale, b_scale, *, dtype):
    return (torch._int_mm(a, b).float() * a_scale * b_scale).to(dtype)


@integers("plain code: scales in bf16", dtypes=(BF16,), scale_dtype=BF16, a_scale_first=True)
def int8_scales_in_bf16(a, b, a_scale, b_scale, *, dtype):
    return torch._int_mm(a, b).to(dtype) * a_scale * b_scale


@integers(
    "torchao: Int8DynamicActivationInt8Weight", dtypes=(BF16, FP16), scales=((M, 1), (N,)), between=True, a_scale_first=True
)
def int8_torchao(a, b, a_scale, b_scale, *, dtype):
    sums = torch._int_mm(a, b)
    scaled = (sums * a_scale.expand(sums.shape)).to(dtype)
    return (scaled * b_scale).reshape(2, -1, sums.shape[-1]).to(dtype)


@integers("the same with a bias", dtypes=(BF16, FP16), bias=True, scales=((M, 1), (N,)), between=True, a_scale_first=True)
def int8_torchao_bias(a, b, a_scale, b_scale, bias, *, dtype):
    sums = torch._int_mm(a, b)
    scaled = (sums * a_scale.expand(sums.shape)).to(dtype)
    return ((scaled * b_scale).reshape(2, -1, sums.shape[-1]) + bias).to(dtype)


# --- operators of libraries that need not be there: stubs.libraries()


def opaque(operator, who, **facts):
    return written(operator, who, dtypes=(BF16,), runs=True, told=False, b_is_rows=True, **facts)


@opaque("mslk.f8f8bf16_rowwise", "torchao with MSLK: PerRow", scales=((M, 1), (N,)), fast_accum=True)
def mslk_rows(a, b, a_scale, b_scale):
    return torch.ops.mslk.f8f8bf16_rowwise(a, b, a_scale, b_scale)


@opaque("mslk.f8f8bf16_rowwise", "the same with a bias", bias=True, scales=((M, 1), (N, 1)))
def mslk_rows_bias(a, b, a_scale, b_scale, bias):
    return torch.ops.mslk.f8f8bf16_rowwise(a, b, a_scale, b_scale, bias=bias, use_fast_accum=False)


@opaque("fbgemm.f8f8bf16_rowwise", "FBGEMM, whose successor is MSLK", scales=((M, 1), (N, 1)), fast_accum=True)
def fbgemm_rows(a, b, a_scale, b_scale):
    return torch.ops.fbgemm.f8f8bf16_rowwise(a, b, a_scale, b_scale)


@opaque(
    "fbgemm.f8f8bf16_blockwise",
    "FBGEMM, 128 x 128 by 128 x 128",
    scales=((1, 4), (2, 4)),
    a_scales=GROUP,
    b_scales=GROUP,
    library="fbgemm",
)
def fbgemm_blocks(a, b, a_scale, b_scale):
    return torch.ops.fbgemm.f8f8bf16_blockwise(a, b, a_scale, b_scale)


@opaque(
    "ao.blockwise_fp8_gemm",
    "torchao: 1 x 128 by 128 x 128",
    scales=((M, 4), (2, 4)),
    a_scales=GROUP,
    b_scales=GROUP,
    library="torchao",
)
def torchao_blocks(a, b, a_scale, b_scale):
    return torch.ops.ao.blockwise_fp8_gemm(a, a_scale, b, b_scale)
