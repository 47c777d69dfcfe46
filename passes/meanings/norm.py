"""Normalisation over the last dimension."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch

from passes.meanings.base import Meaning, text
from passes.values import dtype_name

__all__ = ["Norm", "NormRounding"]


class NormRounding(enum.Enum):
    """Where the normalised value is rounded to the result's dtype.

    The two orders differ in about a quarter of all bf16 results, so they are different functions.  Where they give the
    same bits, without a weight or in fp32 throughout, the value is SCALE_THEN_CAST.
    """

    CAST_THEN_SCALE = "cast then scale"  # w * (x32 * rstd).to(x_dtype), then rounded to dtype: Llama, Qwen, Mistral
    SCALE_THEN_CAST = "scale then cast"  # (w32 * (x32 * rstd)).to(dtype): nn.RMSNorm, Olmo2


@dataclass(frozen=True, kw_only=True)
class Norm(Meaning):
    """RMSNorm over the last dimension: ``out = weight * x / sqrt(mean(x²) + eps)``, statistics in fp32.

    ``eps`` is a number of fp32, written as the shortest decimal for it.

    Inputs: ``x`` [..., K]; ``weight`` [K] if ``weight_dtype``; ``residual`` [..., K] if ``residual``, then the norm is
    that of ``x + residual`` rounded to ``x``'s dtype.
    Outputs: ``out`` [..., K] of ``dtype``; ``sum`` [..., K], the rounded ``x + residual``, if ``residual``.
    """

    eps: float
    x_dtype: torch.dtype
    dtype: torch.dtype
    weight_dtype: torch.dtype | None
    rounding: NormRounding
    residual: bool = False

    def __str__(self) -> str:
        dtypes = dtype_name(self.x_dtype) + (f" to {dtype_name(self.dtype)}" if self.dtype != self.x_dtype else "")
        weight = f"{dtype_name(self.weight_dtype)} weight" if self.weight_dtype else "no weight"
        return text(
            "Norm",
            "rms",
            f"eps={self.eps:g}",
            dtypes,
            self.rounding.value,
            weight if self.weight_dtype != self.x_dtype else "",
            "+residual" if self.residual else "",
        )
