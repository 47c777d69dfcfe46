# SPDX-License-Identifier: Apache-2.0
"""passes.semantics, passes.account.records, passes.ir.values: what a reader of the report sees."""

import dataclasses

import pytest
import torch

from helion_compile.passes.account.records import GraphRecord, Site, Unfused
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import holds_exactly, rounded
from helion_compile.passes.semantics import Matmul, Norm, NormRounding, Quantize, ScaleUse

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64

NORM = Norm(eps=1e-6, x_dtype=BF16, dtype=BF16, weight_dtype=BF16, rounding=NormRounding.CAST_THEN_SCALE)
QUANTIZE = Quantize(
    x_dtype=BF16, dtype=torch.float8_e4m3fn, qmax=448.0, scale_dtype=BF16, use=ScaleUse.DIVIDE, clamp=(-448.0, 448.0)
)


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (NORM, "RMSNorm(eps=1e-06, bf16, cast then scale)"),
        (
            dataclasses.replace(NORM, residual=True, dtype=FP32, weight_dtype=FP32),
            "RMSNorm(eps=1e-06, bf16 to fp32, cast then scale, fp32 weight, +residual)",
        ),
        (dataclasses.replace(NORM, weight_dtype=None), "RMSNorm(eps=1e-06, bf16, cast then scale, no weight)"),
        (QUANTIZE, "Quantize(bf16 to fp8 e4m3 per token, bf16 scale, divide, clamp)"),
        (
            dataclasses.replace(QUANTIZE, clamp=None, amax_floor=1e-12, scale_floor=0.5, use=ScaleUse.MULTIPLY_RECIPROCAL),
            "Quantize(bf16 to fp8 e4m3 per token, bf16 scale, multiply by reciprocal, no clamp, amax >= 1e-12, scale >= 0.5)",
        ),
        (Matmul(dtype=BF16), "Matmul(scaled by row and column, bf16)"),
        (Matmul(dtype=BF16, library="cutlass"), "Matmul(scaled by row and column, bf16, by CUTLASS)"),
        (
            Matmul(dtype=FP32, bias=True, fast_accum=True),
            "Matmul(scaled by row and column, fp32, bias, fast accumulation)",
        ),
    ],
)
def test_text(op, text):
    assert str(op) == text


def test_meanings_are_keys():
    assert NORM == dataclasses.replace(NORM) and hash(NORM) == hash(dataclasses.replace(NORM))
    assert NORM != dataclasses.replace(NORM, eps=1e-5)


NO = Refusal(RefusalKind.PATTERN, "node", "this", "that")


def test_summary():
    site = Site("norm_quantize", Location(), (), {}, 3, "call")
    record = GraphRecord(sites=[site, site], kept=[dataclasses.replace(site, fusion="matmul")], nodes=40, seconds=0.1)
    assert record.summary() == "2 x norm_quantize, 1 x matmul kept (40 nodes, 0.10 s)"
    record.unfused += [Unfused(NORM, Location(), "", NO)] * 5
    record.refusals.append(NO)
    assert record.summary().endswith("1 x matmul kept, 5 x RMSNorm unfused, 1 refused (40 nodes, 0.10 s)")
    assert GraphRecord(error="the pass failed").summary() == "nothing fused: the pass failed"


@pytest.mark.parametrize("value", [1e-6, 1e-5, 1e-12, 0.1, 1 / (448 * 512), 448.0])
def test_rounding_names_the_number_that_fp32_has(value):
    as_fp32 = float(torch.tensor(value, dtype=FP32))
    assert rounded(value, FP32) == rounded(as_fp32, FP32)
    assert float(torch.tensor(rounded(value, FP32), dtype=FP32)) == as_fp32
    assert rounded(value, FP64) == value


def test_rounding_prefers_short_decimals():
    assert rounded(9.999999974752427e-07, FP32) == 1e-6
    assert rounded(1e-12, FP16) == 0.0


def test_which_casts_lose_nothing():
    exact = {
        (wide, narrow)
        for wide in (FP64, FP32, BF16, FP16)
        for narrow in (FP64, FP32, BF16, FP16)
        if holds_exactly(wide, narrow)
    }
    assert exact == {
        (FP64, FP64),
        (FP32, FP32),
        (BF16, BF16),
        (FP16, FP16),
        (FP64, FP32),
        (FP64, BF16),
        (FP64, FP16),
        (FP32, BF16),
        (FP32, FP16),
    }
