# SPDX-License-Identifier: Apache-2.0
"""Normalisation over the last dimension."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

import torch

from helion_compile.passes.ir.values import dtype_name
from helion_compile.passes.semantics.base import SemanticOp, text

__all__ = ["Norm", "NormKind", "NormRoot", "NormRounding"]


class NormKind(enum.Enum):
    """What the values are divided by, and whether their mean is taken off first."""

    RMS = "rms"  # x / sqrt(mean(x²) + eps)
    LAYER = "layer"  # (x - mean(x)) / sqrt(mean((x - mean(x))²) + eps)


class NormRoot(enum.Enum):
    """How the root of ``v``, the mean plus eps, divides; three roundings of one quotient."""

    RSQRT = "times rsqrt"  # x * rsqrt(v); also x * v ** -0.5, for which eager calls the same function
    SQRT = "over sqrt"  # x / sqrt(v)
    RECIPROCAL_SQRT = "times 1 / sqrt"  # x * (1 / sqrt(v))


class NormRounding(enum.Enum):
    """Where the normalised value is rounded to the result's dtype.

    The two orders differ in about a quarter of all bf16 results, so they are different functions.  Where they give the
    same bits, without a weight or in fp32 throughout, the value is SCALE_THEN_CAST.
    """

    CAST_THEN_SCALE = "cast then scale"  # w * (x32 * rstd).to(x_dtype), then rounded to dtype: Llama, Qwen, Mistral
    SCALE_THEN_CAST = "scale then cast"  # (w32 * (x32 * rstd)).to(dtype): nn.RMSNorm, Olmo2


@dataclass(frozen=True, kw_only=True)
class Norm(SemanticOp):
    """``out = (weight + weight_offset) * x / sqrt(mean(x²) + eps) + bias`` over the last dimension, statistics in fp32.

    ``eps`` is a number of fp32, written as the shortest decimal for it.  ``weight_offset`` is added in fp32 (Gemma: 1).
    What multiplies x, or divides it, is rounded to ``factor_dtype`` before.  With SCALE_THEN_CAST the bias is added in
    fp32 and the sum rounded to ``dtype``; with CAST_THEN_SCALE the product with the weight is rounded to ``dtype``, and
    so is the sum with the bias.

    Inputs: ``x`` [..., K]; ``weight`` [K] if ``weight_dtype``; ``bias`` [K] if ``bias_dtype``; ``residual`` [..., K] if
    ``residual``, then the norm is that of ``x * residual_multiplier + residual``, product and sum each rounded to
    ``x``'s dtype (no product if the multiplier is 1, a number of fp32).  With ``unrounded_sum`` the norm reads the sum in
    fp32, before it is rounded (vLLM).  With ``gate_dtype`` x is multiplied by ``gate`` instead, [B, K] under any shape, one
    row for each run of M / B rows of x: if that is x's dtype, product and sum are each rounded to it; if it is fp32, the sum
    alone is.
    Outputs: ``out`` [..., K] of ``dtype``; ``sum`` [..., K], the sum rounded to ``x``'s dtype, if ``residual``.
    """

    ROWS: ClassVar[frozenset[str]] = frozenset({"x", "residual"})

    kind: NormKind = NormKind.RMS
    root: NormRoot = NormRoot.RSQRT
    eps: float
    factor_dtype: torch.dtype = torch.float32
    x_dtype: torch.dtype
    dtype: torch.dtype
    weight_dtype: torch.dtype | None
    weight_offset: float = 0.0
    bias_dtype: torch.dtype | None = None
    rounding: NormRounding
    residual: bool = False
    residual_multiplier: float = 1.0
    unrounded_sum: bool = False
    gate_dtype: torch.dtype | None = None

    @property
    def name(self) -> str:
        return "LayerNorm" if self.kind is NormKind.LAYER else "RMSNorm"

    def __str__(self) -> str:
        dtypes = dtype_name(self.x_dtype) + (f" to {dtype_name(self.dtype)}" if self.dtype != self.x_dtype else "")
        weight = f"{dtype_name(self.weight_dtype)} weight" if self.weight_dtype else "no weight"
        return text(
            self.name,
            f"eps={self.eps:g}",
            self.root.value if self.root is not NormRoot.RSQRT else "",
            f"factor in {dtype_name(self.factor_dtype)}" if self.factor_dtype != torch.float32 else "",
            dtypes,
            self.rounding.value,
            weight if self.weight_dtype != self.x_dtype else "",
            f"weight + {self.weight_offset:g}" if self.weight_offset else "",
            f"{dtype_name(self.bias_dtype)} bias" if self.bias_dtype else "",
            ("+unrounded residual" if self.unrounded_sum else "+residual") if self.residual else "",
            f"x * {self.residual_multiplier:g} before" if self.residual_multiplier != 1 else "",
            f"x * {dtype_name(self.gate_dtype)} gate before" if self.gate_dtype else "",
        )
