# SPDX-License-Identifier: Apache-2.0
"""Scale and shift of a batch behind a norm, as diffusion transformers write adaptive norms.

::

    norm(x) * (1 + scale) + shift          <- anchor mul     x [B, T, K]; scale, shift [B, 1, K]
    norm(x) * (1 + scale)                                    Z-Image, Lumina 2
    (norm(x.float()) * (1 + scale.float()) + shift.float()).to(x.dtype)          Wan

As a graph: ``norm → mul(add(scale, 1)) [→ add(shift)] [→ cast]``.  Each gives a ``Modulate``.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import (
    CASTS,
    RESHAPES,
    dtype_of,
    holds_exactly,
    known_equal,
    only_reader,
    rounded,
    rounding_casts,
    same_shape,
    shape_of,
)
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.aten.norm import library
from helion_compile.passes.patterns.batch_rows import broadcasts_rows, is_row_of_batch
from helion_compile.passes.patterns.matcher import ADD, DIV, MUL, SUB, Matcher
from helion_compile.passes.semantics import Modulate, ModulateRounding

__all__ = ["ANCHORS", "NAME", "match_at"]

aten = torch.ops.aten

NAME = "modulate"
ANCHORS = frozenset({aten.mul.Tensor})
_HALF = (torch.bfloat16, torch.float16)
_FLOATS = (*_HALF, torch.float32)
_ROOTS = frozenset({aten.rsqrt.default, aten.sqrt.default, *library.OPERATIONS})
_IN_A_NORM = MUL | DIV | ADD | SUB | CASTS | RESHAPES | {aten.reciprocal.default, operator.getitem}
_STEPS_OF_A_NORM = 6


def match_at(anchor: Node) -> Match | None:
    """The modulation around a product; None where its factor has no rows of batches, or no norm is in front."""
    for value, factor in (anchor.args[:2], anchor.args[1::-1]):
        if not isinstance(value, Node) or not same_shape(shape_of(value), shape_of(anchor)):
            continue
        if broadcasts_rows(factor, anchor) and dtype_of(anchor) in _FLOATS and _behind_a_norm(value):
            return _match(Matcher(anchor), value, factor)
    return None


def _match(matcher: Matcher, value: Node, factor: Node) -> Match | None:
    product = matcher.anchor
    scale, offset = _less_offset(matcher, factor)
    addend = _addend(matcher)
    if not offset and not broadcasts_rows(addend, product):
        return None  # a gate
    _check_rows(matcher, factor, "scale")
    shift = addend if broadcasts_rows(addend, product) else None
    if shift is not None:
        _check_rows(matcher, shift, "shift")
        if not same_shape(shape_of(shift), shape_of(factor)):
            matcher.fail(
                product,
                RefusalKind.SHAPE,
                "the scale has shape {scale} and the shift {shift}",
                "of one shape they fuse",
                scale=shape_of(factor),
                shift=shape_of(shift),
            )
    x = matcher.exact(value)
    steps = dtype_of(product)
    every_step = steps != torch.float32
    total = matcher.take(only_reader(product)) if shift is not None else product
    if every_step and dtype_of(x) != steps:
        _refuse_dtypes(matcher, x, factor, total)
    if dtype_of(total) != steps or (offset and dtype_of(factor) != steps):
        _refuse_dtypes(matcher, x, factor, total)
    out = (total,) if every_step else rounding_casts(total, _HALF) or (total,)
    inputs = {"x": x, "mod_scale": _rows(matcher, scale)}
    if shift is not None:
        inputs["mod_shift"] = _rows(matcher, shift)
    op = Modulate(
        x_dtype=dtype_of(x),
        dtype=dtype_of(out[0]),
        scale_dtype=dtype_of(inputs["mod_scale"]),
        scale_offset=offset,
        shift_dtype=dtype_of(inputs.get("mod_shift")),
        rounding=ModulateRounding.EVERY_STEP if every_step else ModulateRounding.RESULT,
    )
    return matcher.match(op, inputs, {"out": out})


def _addend(matcher: Matcher) -> Any:
    """What is added to the product, if that is all that is done with it."""
    total = only_reader(matcher.anchor)
    if total is None or total.target not in ADD or total.kwargs.get("alpha", 1) != 1:
        return None
    return matcher.other(total, matcher.anchor)


def _check_rows(matcher: Matcher, row: Node, name: str) -> None:
    if not is_row_of_batch(row, matcher.anchor):
        matcher.fail(
            matcher.anchor,
            RefusalKind.SHAPE,
            "the {name} has shape {shape} beside values {values}",
            "one row for each batch, or one for all, fuses",
            name=name,
            shape=shape_of(row),
            values=shape_of(matcher.anchor),
        )


def _refuse_dtypes(matcher: Matcher, x: Node, factor: Node, total: Node) -> None:
    matcher.fail(
        matcher.anchor,
        RefusalKind.DTYPE,
        "{x} is scaled in {factor} to {product} and shifted in {total}",
        "each step in the dtype of what is scaled, or all of them in fp32, fuses",
        x=dtype_of(x),
        factor=dtype_of(factor),
        product=dtype_of(matcher.anchor),
        total=dtype_of(total),
    )


def _less_offset(matcher: Matcher, factor: Node) -> tuple[Node, float]:
    """s and 1 of s + 1; the factor itself and 0 of any other."""
    add = factor
    while add.target in RESHAPES and _same_rows(add, add.args[0]):
        add = add.args[0]
    if add.target not in ADD or add.kwargs.get("alpha", 1) != 1 or dtype_of(add) not in _FLOATS:
        return factor, 0.0
    found = matcher.with_number(add)
    if found is None or shape_of(found[0]) != shape_of(add) or not found[1]:
        return factor, 0.0
    while factor is not add:
        factor = matcher.take(factor, cheap=True).args[0]
    matcher.take(add, cheap=True)
    return found[0], rounded(found[1], torch.float32)


def _rows(matcher: Matcher, row: Node) -> Node:
    """The narrowest node that holds these rows, behind views and casts that lose nothing."""
    while _same_rows(row, row.args[0] if row.args else None) and (
        row.target in RESHAPES or (row.target in CASTS and holds_exactly(dtype_of(row), dtype_of(row.args[0])))
    ):
        row = matcher.take(row, cheap=True).args[0]
    return row


def _same_rows(row: Node, source: Any) -> bool:
    """Whether both are rows of K elements, more than one vector [K]."""
    shape = shape_of(source)
    return bool(shape) and len(shape) > 1 and known_equal(shape[-1], shape_of(row)[-1]) and dtype_of(source) in _FLOATS


def _behind_a_norm(value: Node) -> bool:
    """Whether a root is among what ``value`` was computed from in the few steps of a norm."""
    pending = [(value, _STEPS_OF_A_NORM)]
    while pending:
        node, steps = pending.pop()
        if node.target in _ROOTS:
            return True
        if steps and node.target in _IN_A_NORM:
            pending += [(argument, steps - 1) for argument in node.all_input_nodes]
    return False
