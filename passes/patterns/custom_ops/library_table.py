# SPDX-License-Identifier: Apache-2.0
"""Operators of MSLK, FBGEMM and torchao, one row each.

A row is all that another library's operator needs: no import, nothing registered.
"""

from __future__ import annotations

from functools import partial

import torch

from helion_compile.passes.ir.values import rounded
from helion_compile.passes.patterns.custom_ops.library_matmul import build_scaled_mm
from helion_compile.passes.patterns.custom_ops.library_quantize import build_row_quantizer
from helion_compile.passes.patterns.custom_ops.operator_table import Builder, OperatorPattern, OperatorRow, make_table
from helion_compile.passes.semantics import ScaleDivision, ScaleUse

__all__ = ["OPERATORS", "matmul", "quantize"]


def _row(name: str, **builders: Builder) -> OperatorRow:
    return OperatorRow(name, None, builders)


_TRITON = partial(
    build_row_quantizer,
    x="a",
    fields=dict(use=ScaleUse.MULTIPLY_QUOTIENT, amax_floor=rounded(1e-12, torch.float32)),
    fixed=dict(zero_start_index_M=None, use_triton=True, output_device=None, align_rows_to=None),
)
_CUDA = partial(
    build_row_quantizer,
    x="input",
    fields=dict(use=ScaleUse.DIVIDE, division=ScaleDivision.TENSOR, scale_floor=rounded(1 / (448 * 512), torch.float32)),
    fixed=dict(bs=None, stochastic_rounding=False),
)
_WEIGHTS = partial(build_scaled_mm, a="XQ", b="WQ", a_scale="x_scale", b_scale="w_scale")
_ROWWISE = partial(_WEIGHTS, bias="bias", fast_accum="use_fast_accum")

OPERATORS = make_table(
    [
        _row("triton.quantize_fp8_row", quantize=_TRITON),
        _row("fbgemm.quantize_fp8_per_row", quantize=_CUDA),
        _row("mslk.quantize_fp8_per_row", quantize=_CUDA),
        _row("mslk.f8f8bf16_rowwise", matmul=_ROWWISE),
        _row("fbgemm.f8f8bf16_rowwise", matmul=_ROWWISE),
        _row("fbgemm.f8f8bf16_blockwise", matmul=partial(_WEIGHTS, block=True, library="fbgemm")),
        _row(
            "ao.blockwise_fp8_gemm",
            matmul=partial(build_scaled_mm, a="a", b="b", a_scale="a_s", b_scale="b_s", block=True, library="torchao"),
        ),
    ]
)

quantize, matmul = (OperatorPattern(name, OPERATORS) for name in ("quantize", "matmul"))
