# SPDX-License-Identifier: Apache-2.0
"""Modulation: the scale and shift of a batch behind a norm."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

import torch

from helion_compile.passes.ir.values import dtype_name
from helion_compile.passes.semantics.base import SemanticOp, text

__all__ = ["Modulate", "ModulateRounding"]


class ModulateRounding(enum.Enum):
    """Where values are rounded; where the two give the same bits, in fp32 throughout, the value is RESULT."""

    RESULT = "result"  # fp32 up to the end: Wan
    EVERY_STEP = "every step"  # factor, product and sum to x's dtype: Flux


@dataclass(frozen=True, kw_only=True)
class Modulate(SemanticOp):
    """``out = x * (mod_scale + scale_offset) + mod_shift``, with a scale and a shift that all tokens of a batch share.

    With a norm in front this is the adaptive norm of diffusion transformers (AdaLN).

    Inputs: ``x`` [..., K]; ``mod_scale`` and, if ``shift_dtype``, ``mod_shift``, both [B, K] under any shape: one row for
    each run of M / B rows of x, if x has M of them.  ``scale_offset`` is a number of fp32.
    Outputs: ``out`` [..., K] of ``dtype``.
    """

    ROWS: ClassVar[frozenset[str]] = frozenset({"x", "mod_scale", "mod_shift"})

    x_dtype: torch.dtype
    dtype: torch.dtype
    scale_dtype: torch.dtype
    scale_offset: float = 1.0
    shift_dtype: torch.dtype | None
    rounding: ModulateRounding

    def __str__(self) -> str:
        factor = f"(scale + {self.scale_offset:g})" if self.scale_offset else "scale"
        rows = {self.scale_dtype, self.shift_dtype or self.scale_dtype}
        others = f"{dtype_name(self.scale_dtype)} scale" if rows != {self.x_dtype} else ""
        return text(
            "Modulate",
            f"x * {factor}" + (" + shift" if self.shift_dtype else ""),
            dtype_name(self.x_dtype) + (f" to {dtype_name(self.dtype)}" if self.dtype != self.x_dtype else ""),
            others + (f", {dtype_name(self.shift_dtype)} shift" if others and self.shift_dtype else ""),
            f"rounded: {self.rounding.value}" if self.rounding is not ModulateRounding.RESULT else "",
        )
