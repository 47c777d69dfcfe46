"""Products of quantised matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from passes.meanings.base import Meaning, text
from passes.values import dtype_name

__all__ = ["Matmul"]


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
        return text(
            "Matmul",
            "scaled by row and column",
            dtype_name(self.dtype),
            "bias" if self.bias else "",
            "fast accumulation" if self.fast_accum else "",
        )
