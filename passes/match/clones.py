# SPDX-License-Identifier: Apache-2.0
"""Clones of quantised values that GEMMs read: part of the quantiser, whose kernel writes rows anyway.

A model whose tokens lie column by column (patches behind a convolution) quantises them as they lie, and its linear clones the
bytes into the rows that a GEMM reads::

    q [M, K], strides (1, M) -> clone, strides (K, 1) -> _scaled_mm
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import CLONES, RESHAPES, VIEWS, known_equal
from helion_compile.passes.match.match import Match
from helion_compile.passes.semantics import Matmul

__all__ = ["lies_in_rows", "take_clones"]

aten = torch.ops.aten

_PRODUCTS = frozenset({aten.mm.default, aten.addmm.default, aten.bmm.default})


def take_clones(match: Match, owners: Mapping[Node, Match]) -> None:
    """Take clones of the quantised values into ``match``, with the views before them, where products alone read them.

    One that something else reads stays: a result of the graph has memory of its own.
    """
    values = list(match.outputs["q"])
    pending: list[tuple[Node, tuple[Node, ...]]] = [(value, ()) for value in values]
    while pending:
        value, views = pending.pop()
        for user in value.users:
            if user.target in RESHAPES:
                pending.append((user, (*views, user)))
            elif user.target in CLONES and _lies_in_rows(user) and _products_read(user, owners):
                match.nodes |= dict.fromkeys((*views, user))
                match.cheap |= set(views)
                values.append(user)
    match.outputs["q"] = tuple(sorted(values))


def lies_in_rows(value: torch.Tensor, widest: int = 1) -> bool:
    """Whether [..., K] is a view of rows [M, K] with one distance between them and no gaps within.

    ``widest`` is the widest step from one element of a row to the next.
    """
    within = any(known_equal(value.stride(-1), step) for step in range(1, widest + 1)) if value.dim() else False
    if not within and not (value.dim() and known_equal(value.size(-1), 1)):
        return False
    step = None  # from one row to the next, over the dimensions seen so far
    for size, stride in zip(reversed(value.shape[:-1]), reversed(value.stride()[:-1]), strict=True):
        if known_equal(size, 1):
            continue
        if step is not None and not known_equal(stride, step):
            return False
        step = stride * size
    return True


def _lies_in_rows(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and lies_in_rows(value)


def _products_read(node: Node, owners: Mapping[Node, Match]) -> bool:
    """Whether ``node`` is read, and by matrix products alone."""
    return bool(node.users) and all(
        _products_read(user, owners) if user.target in VIEWS else user.target in _PRODUCTS or _is_product(owners.get(user))
        for user in node.users
    )


def _is_product(match: Match | None) -> bool:
    return match is not None and isinstance(match.op, Matmul)
