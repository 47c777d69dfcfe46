# SPDX-License-Identifier: Apache-2.0
"""Operations on the bits of fp32 values: rounding in the middle of a kernel, to keep an eager model's steps, and order."""

from __future__ import annotations

import helion.language as hl
import torch

__all__ = ["ordered_bits", "round_to"]

_ROUND_BF16 = "{ .reg .b16 half; cvt.rn.bf16.f32 half, $1; mov.b32 $0, {0, half}; }"
_ROUND_FP16 = "{ .reg .b16 half; cvt.rn.f16.f32 half, $1; cvt.f32.f16 $0, half; }"


def round_to(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``values`` (fp32) rounded to ``dtype`` (nearest, ties to even), as fp32.

    In assembly because casts there and back invite Triton 3.6 to move layout conversions between them, at times to a layout
    in which every thread holds the whole row: 19 000 instructions instead of 700, and minutes of ptxas.
    """
    if dtype == torch.bfloat16:
        return hl.inline_asm_elementwise(_ROUND_BF16, "=r,r", [values], dtype=torch.float32, is_pure=True, pack=1)
    if dtype == torch.float16:
        return hl.inline_asm_elementwise(_ROUND_FP16, "=r,r", [values], dtype=torch.float32, is_pure=True, pack=1)
    return values


_ORDER = "{ .reg .b32 sign; shr.s32 sign, $1, 31; and.b32 sign, sign, 0x7FFFFFFF; xor.b32 $0, $1, sign; }"


def ordered_bits(values: torch.Tensor) -> torch.Tensor:
    """The bits of ``values`` (fp32) as int32 that order like the floats, with NaNs at the ends.

    In assembly for the reason that :func:`round_to` is.
    """
    return hl.inline_asm_elementwise(_ORDER, "=r,r", [values], dtype=torch.int32, is_pure=True, pack=1)
