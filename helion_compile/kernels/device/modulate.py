# SPDX-License-Identifier: Apache-2.0
"""Modulation of normalised rows, and the gated sum in front of the norm: adaptive norms of diffusion transformers.

Letters: ``M`` rows (tokens), ``B`` batches, ``T`` = M / B rows of one batch, ``K`` hidden size.  Scale, shift and gate
have a row for each batch, which all tokens of the batch share.

Numerics.  With ``exact`` every rounding step of the written form is kept.  Without it everything stays in fp32, as in the code
that Inductor makes of the same chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import helion.language as hl
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.kernels.device.attribute_text import Attributes, find_unknown_word
from helion_compile.kernels.device.rope import multiply
from helion_compile.kernels.device.rounding import round_to

__all__ = [
    "ModulateAttrs",
    "add_gated",
    "check_batches",
    "check_modulation",
    "expand_to_batches",
    "load_batch",
    "modulate_reference",
    "modulate_rows",
    "new_modulated",
    "store_batch",
    "view_by_batch",
]


@dataclass(frozen=True)
class ModulateAttrs(Attributes):
    """The attributes of ``x * (scale + scale_offset) + shift``.

    Attributes:
        rounding: "result" (at the end) or "every_step" (factor, product and sum to the dtype of what is modulated).
        scale_offset: added to the scale before.
        dtype: of the result; by default that of what is modulated.
    """

    rounding: Literal["result", "every_step"] = "result"
    scale_offset: float = 1.0
    dtype: torch.dtype | None = None


def check_modulation(text: str) -> str | None:
    """Why no kernel computes this modulation, as a sentence, or None."""
    unknown = find_unknown_word(ModulateAttrs.parse(text))
    return f"the modulation's {unknown}" if unknown else None


def check_batches(x: torch.Tensor, **rows: torch.Tensor | None) -> str | None:
    """Why these tensors are no rows [B, K] of the batches of ``x`` [M, K], as a sentence, or None."""
    counts = {name: row.size(0) for name, row in rows.items() if row is not None}
    (first, batches), *others = counts.items()
    for name, count in others:
        if not statically_known_true(count == batches):
            return f"{name} has {count} rows and {first} has {batches}; both have one for each batch"
    if not statically_known_true(x.size(0) % batches == 0):
        return f"{x.size(0)} rows are no whole number of rows for each of {batches} batches"
    return None


def view_by_batch(rows: torch.Tensor | None, batches: int, group: int | None) -> torch.Tensor | None:
    """[M, K] as [B, T, K], or [B, T, K / group, group]."""
    if rows is None:
        return None
    tokens = rows.size(0) // batches
    if group is None:
        return rows.view(batches, tokens, rows.size(1))
    return rows.view(batches, tokens, rows.size(1) // group, group)


def expand_to_batches(number: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor | None:
    """A tensor of one element seen as one for each of ``rows`` [B, T, ...]: [B, T, 1, ...]."""
    if number is None:
        return None
    return number.as_strided([rows.size(0), rows.size(1)] + [1] * (rows.dim() - 2), [0] * rows.dim())


def load_batch(tensor: torch.Tensor | None, batch: int, rows: torch.Tensor) -> torch.Tensor | None:
    """In a kernel: these rows of one batch of [B, T, ...], whole, as fp32; None of None."""
    if tensor is None:
        return None
    return hl.load(tensor, [batch, rows, *[slice(None)] * (tensor.dim() - 2)]).to(torch.float32)


def store_batch(tensor: torch.Tensor | None, batch: int, rows: torch.Tensor, values: torch.Tensor | None) -> None:
    """In a kernel: write these rows of one batch of [B, T, ...], whole; nothing where there is no tensor."""
    if tensor is not None:
        hl.store(tensor, [batch, rows, *[slice(None)] * (tensor.dim() - 2)], values)


def new_modulated(x: torch.Tensor, norm_dtype: torch.dtype, text: str) -> torch.Tensor:
    """Memory for the modulated value of ``x`` [M, K]."""
    return torch.empty([x.size(0), x.size(1)], dtype=ModulateAttrs.parse(text).dtype or norm_dtype, device=x.device)


def add_gated(
    values: torch.Tensor, gate: torch.Tensor, residual: torch.Tensor, dtype: torch.dtype, narrow_gate: bool, exact: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """In a kernel: what a norm of ``values * gate + residual`` reads, fp32, and the sum in ``dtype``.

    Args:
        narrow_gate: the gate is of ``dtype``, so that the model rounds the product to it.
    """
    if not exact:
        values = values * gate + residual
        return values, values.to(dtype)
    # An instruction of its own: a * b + c would become one multiply-add, which rounds once.
    values = round_to(values * gate, dtype) if narrow_gate else multiply(values, gate)
    values = values + residual
    return round_to(values, dtype), values.to(dtype)


def modulate_rows(
    values: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None, dtype: torch.dtype, modulation: str, exact: bool
) -> torch.Tensor:
    """In a kernel: ``values * (scale + scale_offset) + shift``, all in fp32; ``dtype`` is that of what is modulated."""
    attrs = ModulateAttrs.parse(modulation)
    factor = scale + attrs.scale_offset if attrs.scale_offset else scale
    if not exact:
        values = values * factor
        return values if shift is None else values + shift
    if attrs.rounding == "every_step":
        values = round_to(values * round_to(factor, dtype), dtype)
    else:
        values = multiply(values, factor)
    if shift is not None:
        values = values + shift
        if attrs.rounding == "every_step":
            values = round_to(values, dtype)
    return round_to(values, attrs.dtype or dtype)


def modulate_reference(
    values: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None, dtype: torch.dtype, modulation: str, exact: bool
) -> torch.Tensor:
    """:func:`modulate_rows` in plain torch, of fp32 ``values`` and of ``scale`` and ``shift`` in the model's dtype."""
    attrs = ModulateAttrs.parse(modulation)

    def maybe_round(values: torch.Tensor) -> torch.Tensor:
        return values.to(dtype).float() if exact and attrs.rounding == "every_step" else values

    factor = scale.float()
    factor = maybe_round(factor + attrs.scale_offset) if attrs.scale_offset else factor
    values = maybe_round(values * factor)
    if shift is not None:
        values = maybe_round(values + shift.float())
    return values.to(attrs.dtype or dtype).float() if exact else values
