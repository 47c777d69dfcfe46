# SPDX-License-Identifier: Apache-2.0
"""What stands under a norm's root: the mean of squares or the variance, plus eps.

::

    x → pow(2) → mean → add(eps)                               RMS; also mul(x, x)
    x → sub(mean(x)) → pow(2) → mean → add(eps)                LAYER
    x → var(correction=0) → add(eps)                           LAYER; also var_mean

Gives ``kind`` and ``eps`` of a ``Norm``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of, lossless, number, origin, rounded, unshaped
from helion_compile.passes.patterns.matcher import ADD, CLAMP, MEAN, MUL, SUB, Matcher
from helion_compile.passes.semantics import NormKind

__all__ = ["Statistic", "match_statistic"]

aten = torch.ops.aten

_SQUARE = frozenset({aten.pow.Tensor_Scalar, *MUL})
_VARIANCE = frozenset({aten.var.correction})
_VAR_MEAN = frozenset({aten.var_mean.correction})


@dataclass(frozen=True)
class Statistic:
    """``numerator`` says whether a node is what the root divides, x or x less its mean, and steps over it if so."""

    kind: NormKind
    x: Node  # [..., K], the narrowest node that holds the values
    eps: float
    numerator: Callable[[Any], bool]


def match_statistic(matcher: Matcher) -> Statistic | None:
    """What the anchor is the root of; None without a mean or a variance of something."""
    add = matcher.through_views(matcher.anchor.args[0])
    if not isinstance(add, Node):
        return None
    if add.target not in ADD:
        _refuse_others(matcher, add)
        return None
    for value, eps in (add.args[:2], add.args[1::-1]):
        if _is_statistic(unshaped(value)):
            return _read(matcher, matcher.through_views(value), _constant_eps(matcher, matcher.take(add), eps))
        if isinstance(value, Node):
            _refuse_others(matcher, unshaped(value))
    return None


def _is_statistic(node: Any) -> bool:
    if not isinstance(node, Node):
        return False
    return node.target in MEAN | _VARIANCE or (node.target is operator.getitem and node.args[0].target in _VAR_MEAN)


def _refuse_others(matcher: Matcher, node: Node) -> None:
    """Say what keeps a root over a mean from being a norm."""
    inner = unshaped(node.args[0]) if node.args else None
    if node.target in CLAMP and _is_statistic(inner):
        matcher.fail(
            node, RefusalKind.PATTERN, "{node}: an eps that bounds the mean is another function", "mean + eps", node=node
        )
    if node.target in SUB and _is_statistic(inner):
        matcher.fail(
            node,
            RefusalKind.PATTERN,
            "a difference of means under the root: a variance as mean(x²) - mean(x)² loses digits that "
            "mean((x - mean(x))²) keeps",
            "mean + eps",
        )
    if node is matcher.anchor.args[0] and _is_statistic(node):
        matcher.fail(
            matcher.anchor,
            RefusalKind.FUNCTION,
            "there is no eps under the root",
            "with mean + eps or variance + eps under it, it fuses",
        )


def _constant_eps(matcher: Matcher, add: Node, eps: Any) -> float:
    value = matcher.number(eps)
    if value is None:
        matcher.fail(
            add,
            RefusalKind.CONSTANT,
            "eps is known at run time only, it is {eps}",
            "an eps that is a constant of the graph fuses (dynamic=True makes inputs of Python floats, "
            "torch._dynamo.config.specialize_float = True makes constants of them)",
            eps=origin(eps),
        )
    if add.kwargs.get("alpha", 1) != 1:
        matcher.fail(add, RefusalKind.PATTERN, "an addition with alpha={alpha}", "mean + eps", alpha=add.kwargs["alpha"])
    return rounded(value, dtype_of(add))


def _read(matcher: Matcher, node: Node, eps: float) -> Statistic:
    if node.target is operator.getitem:
        return _var_mean(matcher, node, eps)
    matcher.take(node)
    matcher.over_last_dim(node, node.args[1] if len(node.args) > 1 else None, "a mean")
    if node.target in _VARIANCE:
        _whole_population(matcher, node)
        x = _wide(matcher, node, node.args[0])
        return Statistic(NormKind.LAYER, x, eps, lambda value: _centred(matcher, value, x, None))
    base = _squared(matcher, node.args[0])
    if _less_its_mean(base):
        _in_fp32(matcher, node, base)
        x = _wide(matcher, node, base.args[0])
        if _centred(matcher, base, x, None):
            return Statistic(NormKind.LAYER, x, eps, lambda value: _centred(matcher, value, x, None))
    x = _wide(matcher, node, base)
    return Statistic(NormKind.RMS, x, eps, lambda value: lossless(value) is x and matcher.exact(value) is x)


def _var_mean(matcher: Matcher, item: Node, eps: float) -> Statistic:
    both = matcher.take(item).args[0]
    if item.args[1] != 0:
        matcher.fail(item, RefusalKind.PATTERN, "the mean, {item}", "the variance under the root", item=item)
    matcher.take(both)
    matcher.over_last_dim(both, both.args[1] if len(both.args) > 1 else None, "a variance")
    _whole_population(matcher, both)
    x = _wide(matcher, both, both.args[0])
    return Statistic(NormKind.LAYER, x, eps, lambda value: _centred(matcher, value, x, both))


def _whole_population(matcher: Matcher, node: Node) -> None:
    correction = number(node.kwargs.get("correction"))
    if correction != 0:
        found = "K - 1" if correction is None else f"K - {correction:g}"
        matcher.fail(
            node,
            RefusalKind.FUNCTION,
            "{node} divides by {divisor}",
            "a variance that divides by K fuses (unbiased=False)",
            node=node,
            divisor=found,
        )


def _wide(matcher: Matcher, statistic: Node, value: Node) -> Node:
    """x, taken in fp32."""
    _in_fp32(matcher, statistic, value)
    return matcher.exact(value)


def _in_fp32(matcher: Matcher, statistic: Node, value: Node) -> None:
    if dtype_of(value) != torch.float32:
        matcher.fail(
            statistic,
            RefusalKind.DTYPE,
            "the mean is taken in {dtype}",
            "a norm with its mean in fp32 fuses",
            dtype=dtype_of(value),
        )


def _squared(matcher: Matcher, value: Any) -> Node:
    """What is squared, as v ** 2 or v * v."""
    square = matcher.to(value, _SQUARE, "the square of x")
    matcher.cheap.add(square)
    base, exponent = square.args
    if not (exponent == 2 if square.target is aten.pow.Tensor_Scalar else exponent is base):
        matcher.fail(
            square,
            RefusalKind.PATTERN,
            "{square} of {base} and {exponent}",
            "the square of x",
            square=square,
            base=base,
            exponent=exponent,
        )
    return base


def _less_its_mean(node: Node) -> bool:
    """Whether a node is v - mean(v)."""
    if node.target not in SUB:
        return False
    value, mean = node.args[0], unshaped(node.args[1])
    return isinstance(mean, Node) and mean.target in MEAN and lossless(mean.args[0]) is lossless(value)


def _centred(matcher: Matcher, value: Any, x: Node, both: Node | None) -> bool:
    """Whether ``value`` is x - mean(x), with the mean of its own or the one of ``both``, variance and mean in one."""
    if not isinstance(value, Node) or value.target not in SUB or lossless(value.args[0]) is not x:
        return False
    if dtype_of(value) != torch.float32 or value.kwargs.get("alpha", 1) != 1:
        return False
    mean = unshaped(value.args[1])
    if not isinstance(mean, Node):
        return False
    if mean.target is operator.getitem:
        if both is None or mean.args != (both, 1):
            return False
    elif mean.target in MEAN and lossless(mean.args[0]) is x and dtype_of(mean) == torch.float32:
        matcher.over_last_dim(mean, mean.args[1] if len(mean.args) > 1 else None, "a mean")
        matcher.exact(mean.args[0])
    else:
        return False
    matcher.one_number_a_row(value.args[1], over=x, what="the mean", at=value)
    for step in (matcher.take, lambda node: matcher.exact(node.args[0]), lambda node: matcher.through_views(node.args[1])):
        step(value)
    matcher.take(mean)
    return True
