# SPDX-License-Identifier: Apache-2.0
"""What follows the normalised value of a norm: weight, bias, and the rounding to a 16-bit float.

::

    normalised → cast → mul(weight) [→ add(bias)]         cast then scale
    normalised → mul(weight) [→ add(bias)] → cast         scale then cast; a weight [K], or w.float() + 1
    normalised → cast                                     without weight

torch's RMSNorm clones what is not contiguous before the cast.  Gives ``weight_dtype``, ``weight_offset``, ``bias_dtype``,
``rounding`` and ``dtype`` of a ``Norm``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import (
    dtype_of,
    known_equal,
    lossless,
    number,
    rounded,
    rounding_casts,
    shape_of,
    unshaped,
)
from helion_compile.passes.patterns.batch_rows import broadcasts_rows
from helion_compile.passes.patterns.matcher import ADD, MUL, Matcher
from helion_compile.passes.semantics import NormRounding

__all__ = ["Affine", "match_affine"]

_HALF = (torch.bfloat16, torch.float16)
_FLOATS = (*_HALF, torch.float32)


@dataclass(frozen=True)
class Affine:
    """``out`` are the copies of the result."""

    out: tuple[Node, ...]
    rounding: NormRounding
    weight: Node | None = None
    weight_offset: float = 0.0
    bias: Node | None = None


def match_affine(matcher: Matcher, normalised: Node, x: Node) -> Affine:
    """What is done to ``normalised``, of which ``x`` was the origin; as much of it as a Norm can say."""
    normalised = matcher.past_clone(normalised)
    rounds_itself = dtype_of(normalised) in _HALF
    casts = (normalised,) if rounds_itself else rounding_casts(normalised, _HALF)
    if not casts:
        product, weight, offset = _scaled(matcher, (normalised,), x)
        if product is None:
            return Affine((normalised,), NormRounding.SCALE_THEN_CAST)
        value, bias = _shifted(matcher, matcher.take(product), x)
        value = matcher.past_clone(value)
        return Affine(rounding_casts(value, _HALF) or (value,), NormRounding.SCALE_THEN_CAST, weight, offset, bias)
    product, weight, offset = _scaled(matcher, casts, x)
    if product is None:
        return Affine(casts, NormRounding.SCALE_THEN_CAST)
    if dtype_of(casts[0]) != dtype_of(x):
        matcher.fail(
            casts[0],
            RefusalKind.DTYPE,
            "the normalised value is rounded to {casts_dtype} before the weight",
            "rounded to the input's dtype, {x_dtype}, it fuses",
            casts_dtype=dtype_of(casts[0]),
            x_dtype=dtype_of(x),
        )
    for cast in casts:
        matcher.take(cast)
    value, bias = _shifted(matcher, matcher.take(product), x)
    return Affine((value,), NormRounding.CAST_THEN_SCALE, weight, offset, bias)


def _scaled(matcher: Matcher, values: Iterable[Node], x: Node) -> tuple[Node | None, Node | None, float]:
    """The product of one of the equal ``values`` with a weight [K], the weight, and what is added to it before."""
    hidden = shape_of(x)[-1]
    readers = [(value, user) for value in values for user in value.users]
    for value, product in readers:
        factor = matcher.other(product, value) if product.target in MUL else None
        if not isinstance(factor, Node) or dtype_of(product) not in _FLOATS:
            continue
        weight, offset = _less_offset(factor)
        if _is_vector(factor, weight, hidden):
            if len(readers) > 1:
                matcher.fail(
                    value,
                    RefusalKind.READER,
                    "the normalised value is also read before the weight is applied, by {others}",
                    "without that reader it fuses",
                    others=[user for _, user in readers if user is not product],
                )
            _step_to(matcher, factor, weight)
            return product, weight, offset
        if len(readers) == 1 and weight.op in ("placeholder", "get_attr") and not broadcasts_rows(factor, product):
            shape = shape_of(factor) or ()
            matcher.fail(
                product,
                RefusalKind.SHAPE,
                "the weight, {weight}, has shape {shape}",
                "shape [{hidden}] fuses",
                weight=weight,
                shape=shape,
                hidden=hidden,
            )
    return None, None, 0.0


def _shifted(matcher: Matcher, product: Node, x: Node) -> tuple[Node, Node | None]:
    """``product`` plus a bias [K] and the bias, if an addition of one in the product's dtype is its only reader."""
    if len(product.users) != 1:
        return product, None
    (total,) = product.users
    if total.target not in ADD or total.kwargs.get("alpha", 1) != 1 or dtype_of(total) != dtype_of(product):
        return product, None
    addend = matcher.other(total, product)
    bias = _plain(addend)
    if not isinstance(bias, Node) or not _is_vector(addend, bias, shape_of(x)[-1]):
        return product, None
    _step_to(matcher, addend, bias)
    return matcher.take(total), bias


def _less_offset(factor: Node) -> tuple[Node, float]:
    """w and 1 of w.float() + 1; the factor itself and 0 for any other."""
    add = _plain(factor)
    if add.target in ADD and dtype_of(add) == torch.float32 and add.kwargs.get("alpha", 1) == 1:
        for value, constant in (add.args[:2], add.args[1::-1]):
            offset = number(constant)
            if offset and isinstance(value, Node) and shape_of(value) == shape_of(add):
                return lossless(value), rounded(offset, torch.float32)
    return add, 0.0


def _plain(value: Any) -> Any:
    """The narrowest node behind views and casts that lose nothing."""
    return lossless(unshaped(lossless(value)))


def _is_vector(operand: Node, vector: Node, hidden: Any) -> bool:
    """Whether ``operand``, which shows ``vector``, is one number for each of the ``hidden`` values of a row."""
    shape, seen = shape_of(vector), shape_of(operand)
    if not shape or not seen or dtype_of(vector) not in _FLOATS or len(shape) != 1:
        return False
    return known_equal(shape[0], hidden) and known_equal(seen[-1], hidden) and all(known_equal(n, 1) for n in seen[:-1])


def _step_to(matcher: Matcher, operand: Node, vector: Node) -> None:
    """Step over what lies between an operand and the vector that it shows."""
    while operand is not vector:
        add = operand.target in ADD
        tensor = next(argument for argument in operand.args if isinstance(argument, Node) and number(argument) is None)
        if add:
            for argument in operand.args:
                matcher.number(argument)
        operand = matcher.take(operand, cheap=True) and tensor
