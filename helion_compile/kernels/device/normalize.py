# SPDX-License-Identifier: Apache-2.0
"""Norms over rows: their attributes as one line of text, and their arithmetic in kernels and in plain torch.

Letters: ``M`` rows (tokens), ``K`` hidden size.  In kernels rows are [M, K], or [M, K / group, group] where groups share a
scale later on.

Numerics.  With ``exact`` every rounding step of the written form is kept, so that only the order of summation in the means can
differ from eager PyTorch.  Without it everything stays in fp32, as in the code that Inductor makes of the same chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from helion_compile.kernels.device.attribute_text import Attributes, find_unknown_word
from helion_compile.kernels.device.division import compute_reciprocal, compute_sqrt, divide_rows
from helion_compile.kernels.device.rounding import round_to

__all__ = ["NormAttrs", "add_residual", "check_norm", "new_norm", "normalize_reference", "normalize_rows"]


@dataclass(frozen=True)
class NormAttrs(Attributes):
    """The attributes of a norm; words are the names of :mod:`helion_compile.passes.semantics`' enumerations, in lower case.

    Attributes:
        kind: "rms", x / sqrt(mean(x²) + eps), or "layer", the same of x - mean(x).
        cast_then_scale: whether the model rounds to ``x``'s dtype before the weight (Llama) or after it (nn.RMSNorm).
        dtype: of the norm's result, ``x``'s by default.
        root: how the root of v = mean + eps divides: "rsqrt" (x * rsqrt(v)), "sqrt" (x / sqrt(v)) or "reciprocal_sqrt"
            (x * (1 / sqrt(v))).
        factor_dtype: to which that factor, or divisor, is rounded (T5: bf16).
        weight_offset: added to the weight in fp32 (Gemma: 1).
        residual_multiplier: ``x`` is multiplied by it before the residual is added (Granite).
        unrounded_sum: the norm reads the sum with the residual before it is rounded (vLLM).
    """

    kind: Literal["rms", "layer"] = "rms"
    cast_then_scale: bool = False
    dtype: torch.dtype | None = None
    root: Literal["rsqrt", "sqrt", "reciprocal_sqrt"] = "rsqrt"
    factor_dtype: torch.dtype = torch.float32
    weight_offset: float = 0.0
    residual_multiplier: float = 1.0
    unrounded_sum: bool = False


def check_norm(text: str) -> str | None:
    """Why no kernel computes this norm, as a sentence, or None."""
    unknown = find_unknown_word(NormAttrs.parse(text))
    return f"the norm's {unknown}" if unknown else None


def new_norm(x: torch.Tensor, text: str) -> torch.Tensor:
    """Memory for the norm of ``x`` [M, K]."""
    return torch.empty([x.size(0), x.size(1)], dtype=NormAttrs.parse(text).dtype or x.dtype, device=x.device)


def add_residual(
    values: torch.Tensor, residual: torch.Tensor, dtype: torch.dtype, norm: str, exact: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """In a kernel: what the norm of ``values * residual_multiplier + residual`` reads, fp32, and the sum in ``dtype``."""
    attrs = NormAttrs.parse(norm)
    if attrs.residual_multiplier != 1.0:
        values = values * attrs.residual_multiplier
        if exact:
            values = round_to(values, dtype)
    values = values + residual
    total = values.to(dtype)
    return round_to(values, dtype) if exact and not attrs.unrounded_sum else values, total


def normalize_rows(
    values: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    dtype: torch.dtype,
    norm: str,
    exact: bool,
) -> torch.Tensor:
    """In a kernel: the norm of ``values``, fp32; ``weight`` and ``bias`` are fp32 that broadcasts, ``dtype`` is x's."""
    attrs = NormAttrs.parse(norm)
    if attrs.kind == "layer":
        # From the row in registers: the mean of squares minus the squared mean would cancel.
        values = values - _mean(values)
    values = _divide_by_root(values, _mean(values * values) + eps, attrs, exact)
    if weight is not None:
        if attrs.cast_then_scale and exact:
            values = round_to(values, dtype)
        values = values * (weight + attrs.weight_offset if attrs.weight_offset else weight)
    if bias is not None:
        if attrs.cast_then_scale and exact:
            values = round_to(values, attrs.dtype or dtype)
        values = values + bias
    return round_to(values, attrs.dtype or dtype) if exact else values


def _divide_by_root(values: torch.Tensor, squared: torch.Tensor, attrs: NormAttrs, exact: bool) -> torch.Tensor:
    if attrs.root == "rsqrt" or not exact:
        factor = torch.rsqrt(squared)
    else:
        factor = compute_sqrt(squared)
        if attrs.root == "sqrt":
            return divide_rows(values, round_to(factor, attrs.factor_dtype))
        factor = compute_reciprocal(factor)
    return values * (round_to(factor, attrs.factor_dtype) if exact else factor)


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Of each row, whether or not it is cut into groups."""
    if values.dim() == 2:
        return torch.mean(values, dim=-1, keepdim=True)
    return torch.mean(torch.mean(values, dim=-1, keepdim=True), dim=-2, keepdim=True)


def normalize_reference(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    norm: str,
    exact: bool,
    gate: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The norm of ``x`` (+ ``residual``) in plain torch, fp32 [M, K], and the rounded sum if there is a residual.

    ``gate``, which broadcasts, multiplies ``x`` before the residual is added.
    """
    attrs = NormAttrs.parse(norm)
    dtype = attrs.dtype or x.dtype

    def maybe_round(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return values.to(dtype).float() if exact else values

    values, total = x.float(), None
    if gate is not None:
        values = values * gate.float()
        values = maybe_round(values, x.dtype) if gate.dtype == x.dtype else values
    if residual is not None:
        if attrs.residual_multiplier != 1.0:
            values = maybe_round(values * attrs.residual_multiplier, x.dtype)
        values = values + residual.float()
        total = values.to(x.dtype)
        if not attrs.unrounded_sum:
            values = maybe_round(values, x.dtype)
    if attrs.kind == "layer":
        # As torch's LayerNorm is decomposed, in its order of summation; models that write their own sum twice.
        variance, mean = torch.var_mean(values, -1, correction=0, keepdim=True)
        values, squared = values - mean, variance + eps
    else:
        squared = values.pow(2).mean(-1, keepdim=True) + eps
    if attrs.root == "sqrt":
        values = values / maybe_round(torch.sqrt(squared), attrs.factor_dtype)
    else:
        factor = torch.rsqrt(squared) if attrs.root == "rsqrt" else torch.sqrt(squared).reciprocal()
        values = values * maybe_round(factor, attrs.factor_dtype)
    if weight is not None:
        if attrs.cast_then_scale:
            values = maybe_round(values, x.dtype)
        weight = weight.float()
        values = values * (weight + attrs.weight_offset if attrs.weight_offset else weight)
    if bias is not None:
        if attrs.cast_then_scale:
            values = maybe_round(values, dtype)
        values = values + bias.float()
    return maybe_round(values, dtype), total
