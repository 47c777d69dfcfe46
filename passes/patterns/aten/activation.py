# SPDX-License-Identifier: Apache-2.0
"""silu, gelu and relu, alone or times a second half, as models and torch's own decompositions write them.

::

    x32 / (1 + exp(-x32))                                         silu         <- anchor exp     x [..., K]
    x32 * sigmoid(x32)                                            silu         <- anchor sigmoid
    x32 * sigmoid(x32 * 1.702)                                    quick gelu   <- anchor sigmoid
    relu(x), relu(x) ** 2                                         relu, relu squared <- anchor relu
    f(x32).to(x.dtype) * up                                       gated, or (f(x32) * up32).to(x.dtype)
    f(x.clamp(max=7)) * (up.clamp(-7, 7) + 1)                     with a limit and an offset: see ``gate``

As a graph, silu is ``x → neg → exp → add(1) → div(x, ·) [→ cast] [→ mul(up)]``.  Each gives an ``Activation``.
``gelu`` has gelu's two forms.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of, rounding_casts, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.aten.activation_steps import Found, equal_numbers, is_value, plus_one, times_number
from helion_compile.passes.patterns.aten.gate import Gate, find_gate, step_to_unclamped
from helion_compile.passes.patterns.aten.gelu import match_gelu, match_gelu_tanh
from helion_compile.passes.patterns.matcher import DIV, MUL, Matcher
from helion_compile.passes.semantics import Activation, ActivationFunction, ActivationRounding

__all__ = ["ANCHORS", "NAME", "match_at"]

aten = torch.ops.aten

NAME = "activation"
_QUICK_GELU_FACTOR = 1.702
_PLAIN_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
_POW = frozenset({aten.pow.Tensor_Scalar})


def match_at(anchor: Node) -> Match | None:
    """The activation around ``anchor``; None where an exp, a tanh, … belongs to something else."""
    if not shape_of(anchor):
        return None
    return _match(Matcher(anchor), clamped=True) or _match(Matcher(anchor), clamped=False)


def _match(matcher: Matcher, *, clamped: bool) -> Match | None:
    """The activation; ``clamped``: None unless x and what f(x) is multiplied by are clamped by one limit."""
    anchor = matcher.anchor
    if (found := _FUNCTIONS[anchor.target](matcher)) is None:
        return None
    function, value, wide = found
    x, limit = matcher.exact(wide), None
    if clamped:
        bounded = step_to_unclamped(matcher, x) if function in _WITH_A_LIMIT else None
        if bounded is None:
            return None
        x, limit = bounded
    if function is ActivationFunction.RELU and dtype_of(x) not in _PLAIN_FLOATS:
        return None  # of integers, too
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
    out, gate, rounding = _product_and_casts(matcher, value, x, function, limit)
    if clamped and gate is None:
        return None
    op = Activation(
        function=function,
        gated=gate is not None,
        x_dtype=dtype_of(x),
        dtype=dtype_of(out[0]),
        rounding=rounding,
        limit=limit,
        up_offset=gate.offset if gate else 0.0,
    )
    return matcher.match(op, {"x": x} if gate is None else {"x": x, "up": gate.up}, {"out": out})


def _silu(matcher: Matcher) -> Found | None:
    negated = matcher.anchor.args[0]
    if not isinstance(negated, Node) or negated.target is not aten.neg.default:
        return None
    x = negated.args[0]
    for total in plus_one(matcher, matcher.anchor):
        for quotient in total.users:
            if quotient.target not in DIV or quotient.args[1] is not total:
                continue
            if not is_value(quotient.args[0], x):
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


def _silu_sigmoid(matcher: Matcher) -> Found | None:
    x = matcher.anchor.args[0]
    for product in [user for user in matcher.anchor.users if user.target in MUL]:
        other = matcher.other(product, matcher.anchor)
        if is_value(other, x):
            matcher.exact(other)
            return ActivationFunction.SILU_SIGMOID, matcher.take(product), x
        scaled = times_number(matcher, x)
        if scaled and is_value(other, scaled[0]):
            if not equal_numbers(scaled[1], _QUICK_GELU_FACTOR):
                matcher.fail(
                    product,
                    RefusalKind.FUNCTION,
                    "x * sigmoid({factor} x) is in no pattern",
                    "x * sigmoid(x) and x * sigmoid(1.702 x) fuse",
                    factor=scaled[1],
                )
            matcher.take(x)
            matcher.exact(other)
            return ActivationFunction.QUICK_GELU, matcher.take(product), scaled[0]
    return None


def _relu(matcher: Matcher) -> Found | None:
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
    return ActivationFunction.RELU, matcher.anchor, x


_FUNCTIONS = {
    aten.exp.default: _silu,
    aten.sigmoid.default: _silu_sigmoid,
    aten.erf.default: match_gelu,
    aten.tanh.default: match_gelu_tanh,
    aten.relu.default: _relu,
}
ANCHORS = frozenset(_FUNCTIONS)
# Of the others no model clamps what they are taken of, and relu's own steps do not round.
_WITH_A_LIMIT = (ActivationFunction.SILU, ActivationFunction.SILU_SIGMOID, ActivationFunction.QUICK_GELU)


def _product_and_casts(
    matcher: Matcher, value: Node, x: Node, function: ActivationFunction, limit: float | None
) -> tuple[tuple[Node, ...], Gate | None, ActivationRounding]:
    """The result's copies, what f(x) is multiplied by, and where values are rounded."""
    x_dtype = dtype_of(x)
    result = ActivationRounding.RESULT
    offset = function in _WITH_A_LIMIT
    if dtype_of(value) == x_dtype:
        # One rounding a step; in fp32 that is none, relu does not round, and of a squared one the square alone does.
        one_step = x_dtype == torch.float32 or function in (ActivationFunction.RELU, ActivationFunction.RELU_SQUARED)
        narrow = result if one_step else ActivationRounding.EVERY_STEP
        gate = find_gate(matcher, (value,), x, limit, offset)
        if gate is None:
            return (value,), None, narrow
        squared = function is ActivationFunction.RELU_SQUARED and x_dtype != torch.float32
        return (matcher.take(gate.product),), gate, ActivationRounding.FUNCTION if squared else narrow
    if casts := rounding_casts(value, (x_dtype,)):
        gate = find_gate(matcher, casts, x, limit, offset)
        if gate is None:
            return casts, None, result
        for cast in casts:
            matcher.take(cast)
        exact = function is ActivationFunction.RELU
        return (matcher.take(gate.product),), gate, result if exact else ActivationRounding.FUNCTION
    gate = find_gate(matcher, (value,), x, limit, offset)
    if gate is None:
        return (value,), None, result
    return rounding_casts(matcher.take(gate.product), (x_dtype,)) or (gate.product,), gate, result
