# SPDX-License-Identifier: Apache-2.0
"""gelu, by erf and by tanh, as models and torch's own decompositions write it.

::

    (x32 * 0.5) * (erf(x32 * √½) + 1)                             gelu         <- anchor erf       or x32 / √2
    (x32 * 0.5) * (tanh((x32 + x32³ * 0.044715) * √(2/π)) + 1)    gelu tanh    <- anchor tanh
    (x32 * 0.5) * (tanh(x32 * √(2/π) * (x32 * 0.044715 * x32 + 1)) + 1)        <- anchor tanh
"""

from __future__ import annotations

import math

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of, shape_of
from helion_compile.passes.patterns.aten.activation_steps import (
    Found,
    equal_numbers,
    is_value,
    plus_number,
    plus_one,
    times_number,
)
from helion_compile.passes.patterns.matcher import DIV, MUL, Matcher
from helion_compile.passes.semantics import ActivationFunction

__all__ = ["match_gelu", "match_gelu_tanh"]

aten = torch.ops.aten

_HALF_ROOT, _ROOT, _TANH_FACTOR, _CUBE_FACTOR = math.sqrt(0.5), math.sqrt(2), math.sqrt(2 / math.pi), 0.044715
_POW = frozenset({aten.pow.Tensor_Scalar})


def match_gelu(matcher: Matcher) -> Found | None:
    scaled = matcher.anchor.args[0]
    found = matcher.with_number(scaled) if isinstance(scaled, Node) and scaled.target in MUL | DIV else None
    if found is None:
        return None
    x, factor = found
    result = _half_times(matcher, x, "erf")
    if result is None:
        return None
    divided = scaled.target in DIV
    over_x = divided and scaled.args[0] is not x
    if over_x or not equal_numbers(factor, _ROOT if divided else _HALF_ROOT):
        argument = f"{factor:g} / x" if over_x else f"x {'/' if divided else '*'} {factor:g}"
        matcher.fail(
            scaled, RefusalKind.FUNCTION, "gelu takes erf({argument})", "erf(x * √½) and erf(x / √2) fuse", argument=argument
        )
    matcher.take(scaled)
    return ActivationFunction.GELU_DIVIDED if divided else ActivationFunction.GELU, result, x


def match_gelu_tanh(matcher: Matcher) -> Found | None:
    scaled = matcher.anchor.args[0]
    found = times_number(matcher, scaled)
    total, factor = found or (None, 0.0)
    if total is None or total.target is not aten.add.Tensor or not all(isinstance(part, Node) for part in total.args):
        factored = _gelu_tanh_factored(matcher)
        if factored is None:
            _gelu_tanh_of_another_order(matcher)
        return factored
    for x, cubed in (total.args, reversed(total.args)):
        cube = times_number(matcher, cubed)
        result = _half_times(matcher, x, "tanh") if cube else None
        if cube is None or result is None or not _cube_of(matcher, cube[0], x):
            continue
        _ask_for_the_constants(matcher, scaled, factor, cube[1])
        matcher.take(scaled), matcher.take(total), matcher.take(cubed)
        return ActivationFunction.GELU_TANH, result, x
    return None


def _gelu_tanh_factored(matcher: Matcher) -> Found | None:
    """tanh((x * √(2/π)) * (x * 0.044715 * x + 1)), as transformers' gelu_fast and Bloom have it."""
    inner = matcher.anchor.args[0]
    for scaled, total in (inner.args[:2], inner.args[1::-1]) if inner.target in MUL else ():
        factor, one = times_number(matcher, scaled), plus_number(matcher, total)
        if not factor or not one or one[1] != 1 or one[0].target not in MUL:
            continue
        x, square = factor[0], one[0]
        for linear, last in (square.args[:2], square.args[1::-1]):
            coefficient = times_number(matcher, linear)
            if not coefficient or not is_value(coefficient[0], x) or not is_value(last, x):
                continue
            if (result := _half_times(matcher, x, "tanh")) is None:
                return None
            _ask_for_the_constants(matcher, inner, factor[1], coefficient[1])
            for node in (inner, scaled, total, square, linear):
                matcher.take(node)
            matcher.exact(coefficient[0]), matcher.exact(last)
            return ActivationFunction.GELU_TANH_FACTORED, result, x
    return None


def _ask_for_the_constants(matcher: Matcher, node: Node, factor: float, coefficient: float) -> None:
    if not equal_numbers(factor, _TANH_FACTOR) or not equal_numbers(coefficient, _CUBE_FACTOR):
        matcher.fail(
            node,
            RefusalKind.CONSTANT,
            "gelu takes tanh({factor} (x + {coefficient} x³))",
            "with {known_factor} and {known_coefficient} it fuses",
            factor=factor,
            coefficient=coefficient,
            known_factor=_TANH_FACTOR,
            known_coefficient=_CUBE_FACTOR,
        )


def _gelu_tanh_of_another_order(matcher: Matcher) -> None:
    """Say why a gelu whose cubic is written in another way is none of ours."""
    for total in plus_one(matcher, matcher.anchor):
        for product in total.users:
            half = matcher.other(product, total) if product.target in MUL else None
            scaled = times_number(matcher, half)
            if scaled and scaled[1] == 0.5:
                inner = matcher.anchor.args[0]
                if inner.target in MUL and any(shape_of(part) == () for part in inner.args):
                    matcher.fail(
                        inner,
                        RefusalKind.CONSTANT,
                        "a factor of gelu's cubic is known at run time only",
                        "one that is a constant of the graph fuses (dynamic=True makes inputs of Python "
                        "floats, torch._dynamo.config.specialize_float = True makes constants of them)",
                    )
                matcher.fail(
                    inner,
                    RefusalKind.FUNCTION,
                    "gelu takes tanh of {inner}",
                    "of (x + x³ * 0.044715) * √(2/π), or of x * √(2/π) * (x * 0.044715 * x + 1), which "
                    "round differently from other orders, it fuses",
                    inner=inner,
                )


def _half_times(matcher: Matcher, x: Node, function: str) -> Node | None:
    """(x * 0.5) * (anchor + 1)."""
    for total in plus_one(matcher, matcher.anchor):
        for product in total.users:
            half = matcher.other(product, total) if product.target in MUL else None
            scaled = times_number(matcher, half)
            if scaled is None or not is_value(scaled[0], x):
                continue
            if scaled[1] != 0.5:
                matcher.fail(
                    half,
                    RefusalKind.PATTERN,
                    "x * {factor}",
                    "x * 0.5 * (1 + {function}(…))",
                    factor=scaled[1],
                    function=function,
                )
            matcher.take(total), matcher.take(half)
            matcher.exact(scaled[0])
            return matcher.take(product)
    return None


def _cube_of(matcher: Matcher, cube: Node, x: Node) -> bool:
    narrow = dtype_of(x) != torch.float32
    if cube.target in _POW and is_value(cube.args[0], x) and cube.args[1] == 3:
        matcher.exact(matcher.take(cube).args[0])
        return True
    for square, factor in (cube.args[:2], cube.args[1::-1]) if cube.target in MUL else ():
        if isinstance(square, Node) and square.target in MUL and all(is_value(part, x) for part in (*square.args, factor)):
            if narrow:
                matcher.fail(
                    cube,
                    RefusalKind.DTYPE,
                    "the cube of {x_dtype} is rounded after each product",
                    "x.pow(3) or fp32 fuses",
                    x_dtype=dtype_of(x),
                )
            for part in (*matcher.take(square).args, factor):
                matcher.exact(part)
            matcher.take(cube)
            return True
    return False
