"""silu, gelu and squared relu, alone or times a second half, as models and torch's own decompositions write them.

::

    x32 / (1 + exp(-x32))                                         silu         <- anchor exp     x [..., K]
    x32 * sigmoid(x32)                                            silu         <- anchor sigmoid
    (x32 * 0.5) * (erf(x32 * √½) + 1)                             gelu         <- anchor erf       or x32 / √2
    (x32 * 0.5) * (tanh((x32 + x32³ * 0.044715) * √(2/π)) + 1)    gelu tanh    <- anchor tanh
    (x32 * 0.5) * (tanh(x32 * √(2/π) * (x32 * 0.044715 * x32 + 1)) + 1)        <- anchor tanh
    relu(x) ** 2                                                  relu squared <- anchor relu
    f(x32).to(x.dtype) * up                                       gated, or (f(x32) * up32).to(x.dtype)

As a graph, silu is ``x → neg → exp → add(1) → div(x, ·) [→ cast] [→ mul(up)]``.  Each gives an ``Activation``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of, lossless, rounded, rounding_casts, same_shape, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.matcher import ADD, DIV, MUL, Matcher
from helion_compile.passes.semantics import Activation, ActivationFunction, ActivationRounding

__all__ = ["ANCHORS", "NAME", "match_at"]

aten = torch.ops.aten

NAME = "activation"
_HALF_ROOT, _ROOT, _TANH_FACTOR, _CUBE_FACTOR = math.sqrt(0.5), math.sqrt(2), math.sqrt(2 / math.pi), 0.044715
_PLAIN_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
_POW = frozenset({aten.pow.Tensor_Scalar})


def match_at(anchor: Node) -> Match | None:
    """The activation around ``anchor``; None where an exp, a tanh, … belongs to something else."""
    if not shape_of(anchor):
        return None
    matcher = Matcher(anchor)
    if (found := _FUNCTIONS[anchor.target](matcher)) is None:
        return None
    function, value, wide = found
    x = matcher.exact(wide)
    if dtype_of(x) not in _PLAIN_FLOATS or dtype_of(wide) not in _PLAIN_FLOATS:
        matcher.fail(
            anchor,
            RefusalKind.DTYPE,
            "{function} of {x_dtype} in {wide_dtype}",
            "bf16, fp16 and fp32 fuse",
            function=function.value,
            x_dtype=dtype_of(x),
            wide_dtype=dtype_of(wide),
        )
    out, up, rounding = _product_and_casts(matcher, value, x, function)
    op = Activation(function=function, gated=up is not None, x_dtype=dtype_of(x), dtype=dtype_of(out[0]), rounding=rounding)
    return matcher.match(op, {"x": x} if up is None else {"x": x, "up": up}, {"out": out})


# Each gives the function, the node of f(x), and x as the function reads it; or None.
_Found = tuple[ActivationFunction, Node, Node]


def _silu(matcher: Matcher) -> _Found | None:
    negated = matcher.anchor.args[0]
    if not isinstance(negated, Node) or negated.target is not aten.neg.default:
        return None
    x = negated.args[0]
    for total in _plus_one(matcher, matcher.anchor):
        for quotient in total.users:
            if quotient.target not in DIV or quotient.args[1] is not total:
                continue
            if not _is(quotient.args[0], x):
                matcher.fail(
                    quotient,
                    RefusalKind.FUNCTION,
                    "{numerator} is divided by 1 + exp(-{x})",
                    "x / (1 + exp(-x)) of one x fuses",
                    numerator=quotient.args[0],
                    x=x,
                )
            matcher.take(negated), matcher.take(total)
            matcher.exact(quotient.args[0])
            return ActivationFunction.SILU, matcher.take(quotient), x
    return None


def _silu_sigmoid(matcher: Matcher) -> _Found | None:
    x = matcher.anchor.args[0]
    for product in [user for user in matcher.anchor.users if user.target in MUL]:
        other = matcher.other(product, matcher.anchor)
        if _is(other, x):
            matcher.exact(other)
            return ActivationFunction.SILU_SIGMOID, matcher.take(product), x
        scaled = _times_number(matcher, x)
        if scaled and _is(other, scaled[0]):
            matcher.fail(
                product,
                RefusalKind.FUNCTION,
                "x * sigmoid({factor} x) is in no pattern",
                "x * sigmoid(x) fuses",
                factor=scaled[1],
            )
    return None


def _gelu(matcher: Matcher) -> _Found | None:
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
    if over_x or not _equal(factor, _ROOT if divided else _HALF_ROOT):
        argument = f"{factor:g} / x" if over_x else f"x {'/' if divided else '*'} {factor:g}"
        matcher.fail(
            scaled, RefusalKind.FUNCTION, "gelu takes erf({argument})", "erf(x * √½) and erf(x / √2) fuse", argument=argument
        )
    matcher.take(scaled)
    return ActivationFunction.GELU_DIVIDED if divided else ActivationFunction.GELU, result, x


def _gelu_tanh(matcher: Matcher) -> _Found | None:
    scaled = matcher.anchor.args[0]
    found = _times_number(matcher, scaled)
    total, factor = found or (None, 0.0)
    if total is None or total.target is not aten.add.Tensor or not all(isinstance(part, Node) for part in total.args):
        factored = _gelu_tanh_factored(matcher)
        if factored is None:
            _gelu_tanh_of_another_order(matcher)
        return factored
    for x, cubed in (total.args, reversed(total.args)):
        cube = _times_number(matcher, cubed)
        result = _half_times(matcher, x, "tanh") if cube else None
        if cube is None or result is None or not _cube_of(matcher, cube[0], x):
            continue
        _ask_for_the_constants(matcher, scaled, factor, cube[1])
        matcher.take(scaled), matcher.take(total), matcher.take(cubed)
        return ActivationFunction.GELU_TANH, result, x
    return None


def _gelu_tanh_factored(matcher: Matcher) -> _Found | None:
    """tanh((x * √(2/π)) * (x * 0.044715 * x + 1)), as transformers' gelu_fast and Bloom have it."""
    inner = matcher.anchor.args[0]
    for scaled, total in (inner.args[:2], inner.args[1::-1]) if inner.target in MUL else ():
        factor, one = _times_number(matcher, scaled), _plus_number(matcher, total)
        if not factor or not one or one[1] != 1 or one[0].target not in MUL:
            continue
        x, square = factor[0], one[0]
        for linear, last in (square.args[:2], square.args[1::-1]):
            coefficient = _times_number(matcher, linear)
            if not coefficient or not _is(coefficient[0], x) or not _is(last, x):
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
    if not _equal(factor, _TANH_FACTOR) or not _equal(coefficient, _CUBE_FACTOR):
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
    for total in _plus_one(matcher, matcher.anchor):
        for product in total.users:
            half = matcher.other(product, total) if product.target in MUL else None
            scaled = _times_number(matcher, half)
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


def _relu_squared(matcher: Matcher) -> _Found | None:
    x = matcher.anchor.args[0]
    for user in matcher.anchor.users:
        if user.target in _POW and user.args[1] == 2:
            return ActivationFunction.RELU_SQUARED, matcher.take(user), x
        if user.target in MUL:
            other = user.args[1] if user.args[0] is matcher.anchor else user.args[0]
            if isinstance(other, Node) and other.target is aten.relu.default and other.args[0] is x:
                if other < matcher.anchor:
                    return None  # read from the other factor
                matcher.take(other)
                return ActivationFunction.RELU_SQUARED, matcher.take(user), x
    return None


_FUNCTIONS = {
    aten.exp.default: _silu,
    aten.sigmoid.default: _silu_sigmoid,
    aten.erf.default: _gelu,
    aten.tanh.default: _gelu_tanh,
    aten.relu.default: _relu_squared,
}
ANCHORS = frozenset(_FUNCTIONS)


def _is(value: Any, x: Node) -> bool:
    """Whether ``value`` is ``x``, perhaps cast once more: each use of ``x.float()`` may have a cast of its own."""
    return isinstance(value, Node) and dtype_of(value) == dtype_of(x) and lossless(value) is lossless(x)


def _equal(found: float, expected: float) -> bool:
    return rounded(found, torch.float32) == rounded(expected, torch.float32)


def _times_number(matcher: Matcher, value: Any) -> tuple[Node, float] | None:
    return matcher.with_number(value) if isinstance(value, Node) and value.target in MUL else None


def _plus_number(matcher: Matcher, value: Any) -> tuple[Node, float] | None:
    added = isinstance(value, Node) and value.target in ADD and value.kwargs.get("alpha", 1) == 1
    return matcher.with_number(value) if added else None


def _plus_one(matcher: Matcher, value: Node) -> Iterable[Node]:
    for user in value.users:
        found = _plus_number(matcher, user)
        if found and found[1] == 1:
            yield user


def _half_times(matcher: Matcher, x: Node, function: str) -> Node | None:
    """(x * 0.5) * (anchor + 1)."""
    for total in _plus_one(matcher, matcher.anchor):
        for product in total.users:
            half = matcher.other(product, total) if product.target in MUL else None
            scaled = _times_number(matcher, half)
            if scaled is None or not _is(scaled[0], x):
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
    if cube.target in _POW and _is(cube.args[0], x) and cube.args[1] == 3:
        matcher.exact(matcher.take(cube).args[0])
        return True
    for square, factor in (cube.args[:2], cube.args[1::-1]) if cube.target in MUL else ():
        if isinstance(square, Node) and square.target in MUL and all(_is(part, x) for part in (*square.args, factor)):
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


def _product_and_casts(
    matcher: Matcher, value: Node, x: Node, function: ActivationFunction
) -> tuple[tuple[Node, ...], Node | None, ActivationRounding]:
    """The result's copies, what f(x) is multiplied by, and where values are rounded."""
    x_dtype = dtype_of(x)
    result = ActivationRounding.RESULT
    if dtype_of(value) == x_dtype:
        # One rounding a step; in fp32 that is none, and of a squared relu the square is the only step that rounds.
        one_step = x_dtype == torch.float32 or function is ActivationFunction.RELU_SQUARED
        narrow = result if one_step else ActivationRounding.EVERY_STEP
        product, up = _gated(matcher, (value,), x)
        if product is None:
            return (value,), None, narrow
        gated = ActivationRounding.FUNCTION if one_step and x_dtype != torch.float32 else narrow
        return (matcher.take(product),), up, gated
    if casts := rounding_casts(value, (x_dtype,)):
        product, up = _gated(matcher, casts, x)
        if product is None:
            return casts, None, result
        for cast in casts:
            matcher.take(cast)
        return (matcher.take(product),), up, ActivationRounding.FUNCTION
    product, up = _gated(matcher, (value,), x)
    if product is None:
        return (value,), None, result
    return rounding_casts(matcher.take(product), (x_dtype,)) or (product,), up, result


def _gated(matcher: Matcher, values: tuple[Node, ...], x: Node) -> tuple[Node | None, Node | None]:
    """The product of one of the equal ``values`` with a tensor of the same shape, if that is their one reader."""
    readers = [(value, user) for value in values for user in value.users]
    if len(readers) != 1 or readers[0][1].target is not aten.mul.Tensor:
        return None, None
    value, product = readers[0]
    factor = matcher.other(product, value)
    if not isinstance(factor, Node) or factor is value or not same_shape(shape_of(factor), shape_of(value)):
        return None, None
    up = lossless(factor)
    if dtype_of(factor) != dtype_of(value) or dtype_of(up) != dtype_of(x):
        return None, None
    return product, matcher.exact(factor)
