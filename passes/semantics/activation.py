# SPDX-License-Identifier: Apache-2.0
"""Activation functions, alone or times a second half (gated)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

import torch

from helion_compile.passes.ir.values import dtype_name
from helion_compile.passes.semantics.base import SemanticOp, text

__all__ = ["Activation", "ActivationFunction", "ActivationRounding"]


class ActivationFunction(enum.Enum):
    """The function, by the operations that compute it; in the formulas every operation rounds once."""

    SILU = "silu"  # x / (1 + exp(-x)): what F.silu is decomposed to
    SILU_SIGMOID = "silu by sigmoid"  # x * sigmoid(x): another last bit than SILU's
    GELU = "gelu"  # (x * 0.5) * (erf(x * √½) + 1)
    GELU_DIVIDED = "gelu by division"  # (x * 0.5) * (erf(x / √2) + 1): another last bit than GELU's
    GELU_TANH = "gelu tanh"  # (x * 0.5) * (tanh((x + x³ * 0.044715) * √(2/π)) + 1), with x³ = x * x * x
    GELU_TANH_FACTORED = "gelu tanh by factors"  # (x * 0.5) * (tanh((x * √(2/π)) * (x * 0.044715 * x + 1)) + 1)
    RELU_SQUARED = "relu squared"  # max(x, 0)²
    RELU = "relu"  # max(x, 0)
    QUICK_GELU = "quick gelu"  # x * sigmoid(x * 1.702)


class ActivationRounding(enum.Enum):
    """Where values are rounded to the result's dtype.

    Where two give the same bits, without ``up`` or in fp32 throughout, the value is RESULT.
    """

    FUNCTION = "function, then product"  # f(x) in fp32, rounded; then the product, rounded: F.silu(gate) * up
    RESULT = "result"  # fp32 up to the end
    EVERY_STEP = "every step"  # each operation in x's dtype: x * torch.sigmoid(x) on bf16; x³ is x.pow(3)


@dataclass(frozen=True, kw_only=True)
class Activation(SemanticOp):
    """``out = f(x)``, or ``f(x) * (up + up_offset)`` if ``gated``, element by element.

    With ``limit``, a number of fp32, x is bounded by it from above before, and ``up`` both ways.  The sum with ``up_offset``
    is rounded where not all is in fp32 up to the result.

    Inputs: ``x`` [..., K]; ``up`` [..., K] of ``x``'s dtype, if ``gated``.  With ``joined``, ``x`` [..., 2 K] holds both,
    what f is taken of in front and ``up`` behind it.
    Outputs: ``out`` [..., K] of ``dtype``.
    """

    ROWS: ClassVar[frozenset[str]] = frozenset({"x", "up"})

    function: ActivationFunction
    gated: bool
    x_dtype: torch.dtype
    dtype: torch.dtype
    rounding: ActivationRounding
    joined: bool = False
    limit: float | None = None
    up_offset: float = 0.0

    def _up(self) -> str:
        if not self.gated:
            return ""
        return f" * (up + {self.up_offset:g})" if self.up_offset else " * up"

    def __str__(self) -> str:
        return text(
            "Activation",
            self.function.value + self._up(),
            f"limit {self.limit:g}" if self.limit is not None else "",
            dtype_name(self.x_dtype) + (f" to {dtype_name(self.dtype)}" if self.dtype != self.x_dtype else ""),
            f"rounded: {self.rounding.value}" if self.rounding is not ActivationRounding.RESULT else "",
        )
