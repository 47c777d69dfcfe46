# SPDX-License-Identifier: Apache-2.0
"""Rows that all tokens of a batch share: scale, shift and gate of adaptive norms, as [B, 1, K] beside values [B, T, K].

Letters: B batches, T tokens of one batch, K hidden size.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from helion_compile.passes.ir.values import known_equal, lossless, shape_of, unshaped

__all__ = ["broadcasts_rows", "is_row_of_batch"]


def is_row_of_batch(row: Any, values: Node) -> bool:
    """Whether ``row`` has one row for each batch of ``values``: their dimensions in front, then ones, then all of K.

    A vector [K] is none, under whatever shape: that is the weight of a norm.
    """
    return broadcasts_rows(row, values) and _has_shape_of_batches(shape_of(row), shape_of(values))


def broadcasts_rows(row: Any, values: Node) -> bool:
    """Whether ``row`` has rows as long as those of ``values``, and fewer of them, and is more than one vector [K]."""
    shape, whole = shape_of(row), shape_of(values)
    if not shape or not whole or not 2 <= len(shape) <= len(whole) or len(shape_of(unshaped(lossless(row)))) < 2:
        return False
    if not known_equal(shape[-1], whole[-1]) or known_equal(whole[-1], 1):
        return False
    return any(known_equal(part, 1) and not known_equal(size, 1) for part, size in _pairs(shape, whole))


def _has_shape_of_batches(shape: Any, whole: Any) -> bool:
    pairs = _pairs(shape, whole)
    while pairs and known_equal(*pairs[0]):
        pairs.pop(0)
    return all(known_equal(part, 1) for part, _ in pairs)


def _pairs(shape: Any, whole: Any) -> list[tuple[Any, Any]]:
    """The sizes of both, dimension by dimension, but for the last one."""
    padded = [1] * (len(whole) - len(shape)) + list(shape)
    return list(zip(padded, whole, strict=True))[:-1]
