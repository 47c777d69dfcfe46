"""What a stretch of an FX graph computes, with every attribute that changes a bit of the result.

A meaning says nothing of how a model writes it down: ``passes.spellings`` reads the many ways of writing into these few
classes.  Two stretches with equal meanings and equal inputs give equal bits.

Letters in shapes: ``...`` leading dimensions, ``K`` hidden size, ``M`` rows (tokens), ``N`` output features.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch

from passes.values import dtype_name

__all__ = ["Meaning", "Norm", "NormRounding", "Quantize", "ScaleUse", "Matmul"]


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """Base of all meanings: immutable, hashable, compared by attributes."""


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
        return _text(
            "Norm",
            "rms",
            f"eps={self.eps:g}",
            dtypes,
            self.rounding.value,
            weight if self.weight_dtype != self.x_dtype else "",
            "+residual" if self.residual else "",
        )


class ScaleUse(enum.Enum):
    """How the values are brought to the quantised range."""

    DIVIDE = "divide"  # x / scale
    MULTIPLY_RECIPROCAL = "multiply by reciprocal"  # x * (1 / scale)


@dataclass(frozen=True, kw_only=True)
class Quantize(Meaning):
    """Dynamic symmetric quantisation, one scale a token (row).

    ``amax = max |x|`` over the last dimension, exact; ``scale = amax / qmax``, computed and rounded in ``scale_dtype``
    and then converted to fp32; the floors bound ``amax`` and the scale from below; the values, in fp32, are divided by
    the fp32 scale (see ``use``), clamped to ±``qmax`` if ``clamp``, and cast to ``dtype``.

    Inputs: ``x`` [..., K].  Outputs: ``q`` [..., K] of ``dtype``; ``scale`` [..., 1] fp32.
    """

    x_dtype: torch.dtype
    dtype: torch.dtype
    qmax: float
    scale_dtype: torch.dtype
    use: ScaleUse
    clamp: bool
    amax_floor: float | None = None  # in amax's unit, applied before the division by qmax
    scale_floor: float | None = None  # in the scale's unit, applied after it

    def __str__(self) -> str:
        return _text(
            "Quantize",
            f"{dtype_name(self.x_dtype)} to {dtype_name(self.dtype)} a token",
            f"{dtype_name(self.scale_dtype)} scale",
            self.use.value,
            "clamp" if self.clamp else "no clamp",
            f"amax >= {self.amax_floor:g}" if self.amax_floor is not None else "",
            f"scale >= {self.scale_floor:g}" if self.scale_floor is not None else "",
        )


@dataclass(frozen=True, kw_only=True)
class Matmul(Meaning):
    """Scaled matrix product ``(a * a_scale) @ (b * b_scale) + bias``, one scale a row of ``a`` and a column of ``b``.

    Inputs: ``a`` [M, K] and ``b`` [K, N] fp8, ``a_scale`` [M, 1] and ``b_scale`` [1, N] fp32, ``bias`` [N] if ``bias``.
    Outputs: ``out`` [M, N] of ``dtype``.
    """

    dtype: torch.dtype
    bias: bool = False
    fast_accum: bool = False

    def __str__(self) -> str:
        return _text(
            "Matmul",
            "scaled by row and column",
            dtype_name(self.dtype),
            "bias" if self.bias else "",
            "fast accumulation" if self.fast_accum else "",
        )


def _text(name: str, *facts: str) -> str:
    return f"{name}({', '.join(filter(None, facts))})"
