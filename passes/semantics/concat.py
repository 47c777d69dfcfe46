# SPDX-License-Identifier: Apache-2.0
"""Concatenation: the rows of one tensor with those of another behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from helion_compile.passes.ir.values import dtype_name
from helion_compile.passes.semantics.base import SemanticOp, text

__all__ = ["Concat"]


@dataclass(frozen=True, kw_only=True)
class Concat(SemanticOp):
    """``out``: each row of ``front`` with the row of ``back`` behind it.

    Attention and the activation beside it, in parallel blocks of diffusion transformers, are given to one linear so.

    Inputs: ``front`` [..., F], ``back`` [..., B], both of ``dtype``.
    Outputs: ``out`` [..., F + B] of ``dtype``.
    """

    ROWS: ClassVar[frozenset[str]] = frozenset({"front", "back"})

    dtype: torch.dtype

    def __str__(self) -> str:
        return text("Concat", "front, back", dtype_name(self.dtype))
