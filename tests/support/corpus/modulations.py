# SPDX-License-Identifier: Apache-2.0
"""Modulations of diffusion transformers, each with what it is to be read as: rows of the conformance table.

Letters: B batches, T tokens of one, K hidden size.  x is [B, T, K], scale and shift are [B, 1, K].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from helion_compile.passes.semantics import Modulate, ModulateRounding
from tests.support.conformance import Written
from tests.support.needs import ROUNDS_BEFORE_WIDENING

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
RESULT, EVERY_STEP = ModulateRounding

MODULATIONS: list[Written] = []


def layer_norm(x):
    """What stands in front of each: LayerNorm without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def written(who, rounding=EVERY_STEP, *, dtypes=(BF16, FP16, FP32), shift=True, rows=None, widened=False, **attributes):
    """A row.  ``rows``: the dtype of scale and shift, x's if None.  ``widened``: the function computes in fp32."""

    def add(function):
        def op(dtype):
            return Modulate(
                x_dtype=FP32 if widened and not ROUNDS_BEFORE_WIDENING else dtype,
                dtype=dtype,
                scale_dtype=rows or dtype,
                shift_dtype=(rows or dtype) if shift else None,
                rounding=RESULT if dtype is FP32 else rounding,
                **attributes,
            )

        operands = ("x", "mod_scale", *(["mod_shift"] if shift else []))
        MODULATIONS.append(Written(who, function, operands, op, dtypes, behind=layer_norm))
        return function

    return add


@written("diffusers: LTX, PixArt, Sana")
def scale_and_shift(x, scale, shift):
    return x * (1 + scale) + shift


@written("diffusers: AdaLayerNormZero (Flux, SD3, HunyuanVideo)")
def rows_unsqueezed(x, scale, shift):
    return x * (1 + scale.squeeze(1)[:, None]) + shift.squeeze(1)[:, None]


@written("diffusers: AdaLayerNormContinuous")
def factor_unsqueezed(x, scale, shift):
    return x * (1 + scale.squeeze(1))[:, None, :] + shift.squeeze(1)[:, None, :]


@written("DiT: modulate, its operands turned round")
def shift_first(x, scale, shift):
    return shift + (scale + 1.0) * x


@written("diffusers: Wan, in fp32 with one cast", RESULT, dtypes=(BF16, FP16), rows=FP32, widened=True)
def in_fp32(x, scale, shift):
    return (x.float() * (1 + scale) + shift).type_as(x)


@written("plain code: rows widened first", RESULT, dtypes=(BF16, FP16), widened=True)
def rows_in_fp32(x, scale, shift):
    return (x.float() * (1 + scale.float()) + shift.float()).type_as(x)


@written("diffusers: Z-Image, Lumina 2", shift=False)
def scale_alone(x, scale):
    return x * (1 + scale)


@written("plain code: a scale that holds the 1 already", scale_offset=0.0)
def without_offset(x, scale, shift):
    return x * scale + shift
