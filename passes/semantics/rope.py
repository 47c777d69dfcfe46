# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch

from helion_compile.passes.ir.values import dtype_name
from helion_compile.passes.semantics.base import SemanticOp, text

__all__ = ["ComplexRope", "RotaryEmbedding", "Rope", "RopePairs", "RopeRounding", "RopeTable"]


class RopePairs(enum.Enum):
    """Which elements are rotated together, of R that are rotated at all."""

    NEOX = "neox"  # i and i + R / 2: Llama and most others
    INTERLEAVED = "interleaved"  # 2i and 2i + 1: GPT-J, Cohere, Llama 4, video models


class RopeTable(enum.Enum):
    """How many numbers cos and sin have."""

    ELEMENT = "a number per element"  # [..., R]: each element of a pair has a number of its own
    PAIR = "a number per pair"  # [..., R / 2]


class RopeRounding(enum.Enum):
    """Where values are rounded.  Where both give the same bits, in fp32 throughout, the value is RESULT."""

    EVERY_STEP = "every step"  # both products and their sum, each to x's dtype
    RESULT = "result"  # products and sum in fp32, then rounded to dtype


@dataclass(frozen=True, kw_only=True)
class RotaryEmbedding(SemanticOp):
    """Whatever rotates pairs of a head's elements: a :class:`Rope` or a :class:`ComplexRope`."""


@dataclass(frozen=True, kw_only=True)
class Rope(RotaryEmbedding):
    """``x`` with pairs (x1, x2) of its first R elements rotated to (x1 cos - x2 sin, x2 cos + x1 sin), the rest as it is.

    Two products and one sum or difference an element, none contracted to a fused multiply-add.  ``inverse``: by minus the
    angle, to (x1 cos + x2 sin, x2 cos - x1 sin).

    Inputs: ``x`` [..., D]; ``cos`` and ``sin`` as ``table`` says, of size 1 in dimensions over which they are repeated
    (heads).  ``transposed``: ``x`` is [B, S, H, D], and what is rotated, and the result, is its transpose [B, H, S, D].
    Outputs: ``out`` [..., D] of ``dtype``.
    """

    pairs: RopePairs
    table: RopeTable
    rotary_dim: int  # R, in elements
    x_dtype: torch.dtype
    dtype: torch.dtype
    table_dtype: torch.dtype
    rounding: RopeRounding
    inverse: bool = False
    transposed: bool = False

    def __str__(self) -> str:
        return text(
            "Rope",
            self.pairs.value,
            f"rotary_dim={self.rotary_dim}",
            self.table.value,
            dtype_name(self.x_dtype) + (f" to {dtype_name(self.dtype)}" if self.dtype != self.x_dtype else ""),
            f"{dtype_name(self.table_dtype)} table" if self.table_dtype != self.x_dtype else "",
            f"rounded: {self.rounding.value}" if self.rounding is not RopeRounding.RESULT else "",
            "inverse" if self.inverse else "",
            "transposed" if self.transposed else "",
        )


@dataclass(frozen=True, kw_only=True)
class ComplexRope(RotaryEmbedding):
    """``x`` with its first R elements, as R / 2 interleaved complex numbers, times ``freqs``; the rest as it is.

    The product is of complex64 numbers, or of complex128 ones where ``computed`` is fp64.

    How the four real products of a complex one are rounded is the device's own, and so no :class:`Rope`.

    Inputs: ``x`` [..., D]; ``freqs`` [..., R / 2] complex, of size 1 in dimensions over which it is repeated (heads).
    ``transposed`` as for :class:`Rope`.
    Outputs: ``out`` [..., D] of ``dtype``.
    """

    rotary_dim: int  # R, in elements
    x_dtype: torch.dtype
    dtype: torch.dtype
    computed: torch.dtype = torch.float32
    transposed: bool = False

    def __str__(self) -> str:
        return text(
            "ComplexRope",
            f"rotary_dim={self.rotary_dim}",
            dtype_name(self.x_dtype) + (f" to {dtype_name(self.dtype)}" if self.dtype != self.x_dtype else ""),
            f"computed in {dtype_name(self.computed)}" if self.computed != torch.float32 else "",
            "transposed" if self.transposed else "",
        )
