"""Scaled matrix products: ``aten._scaled_mm`` with one scale a row of ``a`` and one a column of ``b``."""

from __future__ import annotations

import torch
from torch.fx import Node

from passes.meanings import Matmul
from passes.region import Region
from passes.spellings.walk import Walk
from passes.values import dtype_of, same_shape, shape_of

__all__ = ["ANCHORS", "NAME", "read"]

aten = torch.ops.aten

NAME = "matmul"
ANCHORS = frozenset({aten._scaled_mm.default})
_NAMES = tuple(argument.name for argument in aten._scaled_mm.default._schema.arguments)


def read(anchor: Node) -> Region | None:
    """The product that an ``aten._scaled_mm`` computes; None without fake values to tell the shapes from."""
    if shape_of(anchor) is None:
        return None
    walk = Walk(anchor)
    given = dict(zip(_NAMES, anchor.args, strict=False)) | anchor.kwargs
    a, b, a_scale, b_scale, bias = (given.get(name) for name in ("self", "mat2", "scale_a", "scale_b", "bias"))
    if given.get("scale_result") is not None:
        walk.fail(anchor, "a scaled result is not read yet; a product without scale_result is")
    rows, columns = shape_of(a)[0], shape_of(b)[1]
    if not same_shape(shape_of(a_scale), (rows, 1)) or not same_shape(shape_of(b_scale), (1, columns)):
        walk.fail(
            anchor,
            f"expected scales of shape [{rows}, 1] and [1, {columns}], one a row and one a column, found "
            f"{list(shape_of(a_scale))} and {list(shape_of(b_scale))}: scales a tensor or a block are not read yet",
        )
    meaning = Matmul(dtype=dtype_of(anchor), bias=bias is not None, fast_accum=bool(given.get("use_fast_accum", False)))
    inputs = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale, "bias": bias}
    return walk.region(meaning, {name: node for name, node in inputs.items() if node is not None}, {"out": anchor})
