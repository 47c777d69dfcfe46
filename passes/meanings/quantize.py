"""Quantisation of activations."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch

from passes.meanings.base import Meaning, text
from passes.values import dtype_name

__all__ = ["Quantize", "ScaleUse"]


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
        return text(
            "Quantize",
            f"{dtype_name(self.x_dtype)} to {dtype_name(self.dtype)} a token",
            f"{dtype_name(self.scale_dtype)} scale",
            self.use.value,
            "clamp" if self.clamp else "no clamp",
            f"amax >= {self.amax_floor:g}" if self.amax_floor is not None else "",
            f"scale >= {self.scale_floor:g}" if self.scale_floor is not None else "",
        )
