# SPDX-License-Identifier: Apache-2.0
"""Quantisers that are operators of libraries, which need not be there: stubs.libraries()."""

from __future__ import annotations

import torch

from helion_compile.passes.ir.values import rounded
from helion_compile.passes.semantics import ScaleDivision, ScaleUse
from tests.support.conformance import Written
from tests.support.corpus.quantiser_rows import (
    BF16,
    FP32,
    VLLM_FLOOR,
    written_into,
)

RECIPROCAL = ScaleUse.MULTIPLY_RECIPROCAL

OPAQUE_QUANTISERS: list[Written] = []
written = written_into(OPAQUE_QUANTISERS)


def opaque(who, **attributes):
    return written(who, dtypes=(BF16,), **attributes)


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
