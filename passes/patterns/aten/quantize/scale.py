# SPDX-License-Identifier: Apache-2.0
"""The steps between the largest magnitude and the scale, from the scale upwards.

::

    amax [→ clamp] → div(qmax) [→ clamp] → scale               also mul(1 / qmax), and in any dtype with casts between
    where(amax > 0, amax, number) → div(qmax) → scale
    … [→ clamp] → log2 → ceil → exp2 [→ clamp] → scale         UE8M0

Gives ``qmax``, ``division``, ``scale_dtype``, ``scale_format`` and the bounds of a ``Quantize``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import (
    CASTS,
    dtype_of,
    holds_exactly,
    known_equal,
    lossless,
    number,
    origin,
    rounded,
    shape_of,
)
from helion_compile.passes.patterns.aten.quantize.reduction import EXTREMES, Range, match_range
from helion_compile.passes.patterns.matcher import ABS, CEILING, CLAMP, DIV, MUL, SUB, Matcher
from helion_compile.passes.semantics import ScaleDivision, ScaleFormat, ScaleUse

__all__ = ["Scale", "is_one_element"]

aten = torch.ops.aten

_POWER = frozenset({aten.exp2.default, aten.pow.Scalar})


def is_one_element(node: Any) -> bool:
    return all(known_equal(size, 1) for size in shape_of(node) or ())


class Scale:
    """The steps between the largest magnitude, or the range, and the scale."""

    def __init__(self, matcher: Matcher, use: ScaleUse):
        self.matcher = matcher
        self.use = use
        self.out: Node | None = None  # the scale
        self.dtype: torch.dtype | None = None  # in which amax / qmax is computed
        self.qmax = 0.0
        self.division = ScaleDivision.NUMBER
        self.format = ScaleFormat.FP32
        self.upper_bound: Node | None = None
        self.amax_ceiling: float | None = None
        self.amax_floor: float | None = None
        self.amax_of_zeros: float | None = None
        self.scale_floor: float | None = None
        self.amax_dtypes: list[torch.dtype] = []  # that the largest magnitude is converted to, the last one first
        self.scale_dtypes: list[torch.dtype] = []  # that the scale is converted to, the last one first
        self._casts_of_powers = 0  # how many of these are of a power of two already
        self.range: Range  # set by read

    @property
    def x(self) -> Node:
        """What the largest magnitude is taken of."""
        return self.range.x

    @property
    def zero_of_any_sign(self) -> bool:
        """Whether a row of zeros may have the scale -0: without abs, and without a bound or a step that makes it positive."""
        bounded = self.amax_of_zeros is not None or (self.amax_floor or 0) > 0 or (self.scale_floor or 0) > 0
        return self.range.ends and not bounded and self.format is ScaleFormat.FP32

    def read(self, node: Any) -> None:
        """Step from ``node`` to what the scale is taken from."""
        matcher = self.matcher
        while True:
            node = matcher.through_views(node)
            if not isinstance(node, Node) or node.op != "call_function":
                matcher.fail(
                    node,
                    RefusalKind.FUNCTION,
                    "the scale comes from {node}, and something is computed with it on the way",
                    "a scale that is given as it is, or taken from x, fuses",
                    node=node,
                )
            if node.target in CASTS:
                node = self._cast(node)
            elif self.dtype is not None and self._is_extreme(node):
                self.range = match_range(matcher, node)
                self.amax_dtypes += self.range.casts
                self._check_range(node)
                return
            elif node.target in CLAMP:
                node = self._bound(node)
            elif node.target is aten.where.self and self.dtype is not None:
                node = self._instead_of_zero(node)
            elif node.target in _POWER and self.dtype is None:
                node = self._power_of_two(node)
            elif node.target in DIV | MUL and self.dtype is None:
                node = self._divide(node)
            elif self._is_extreme(node):
                matcher.fail(
                    node, RefusalKind.FUNCTION, "the values are divided by max |x| itself", "a scale of max |x| / qmax fuses"
                )
            else:
                matcher.fail(node, RefusalKind.PATTERN, "{node} in it", "the scale, max |x| / qmax", node=node)

    def read_factor(self, factor: Node) -> Node:
        """Step from (1 / amax) * qmax to what the scale is taken from; the node that holds the bounded amax."""
        matcher = self.matcher
        node = matcher.through_views(self._cast(factor)) if factor.target in CASTS else factor
        found = matcher.with_number(matcher.take(node))
        assert found, "a factor is (1 / amax) * qmax"
        inverse, self.qmax = matcher.through_views(found[0]), found[1]
        self.dtype = dtype_of(node)
        self._check_rounding(node)
        if dtype_of(matcher.take(inverse)) != self.dtype:
            matcher.fail(
                inverse,
                RefusalKind.DTYPE,
                "1 / amax is in {inverse_dtype}, but its product in {dtype}",
                "computed in one dtype it fuses",
                inverse_dtype=dtype_of(inverse),
                dtype=self.dtype,
            )
        amax = matcher.through_views(inverse.args[0])
        self.read(amax)
        return amax

    def division_of(self, node: Node) -> tuple[ScaleDivision, float] | None:
        """How a node divides by a constant, and by which; None when it does not."""
        value, constant = node.args[:2]
        if node.target in MUL and not isinstance(value, Node):
            value, constant = constant, value
        found = number(constant)
        if found is None or not isinstance(value, Node):
            return None
        if isinstance(constant, Node) and rounded(found, dtype_of(node)) != rounded(found, torch.float64):
            return None  # as a tensor it is rounded to the dtype of the division
        if node.target in DIV:
            return (ScaleDivision.TENSOR if isinstance(constant, Node) else ScaleDivision.NUMBER), found
        qmax = _inverse_of(found)
        return (ScaleDivision.RECIPROCAL, qmax) if qmax and not isinstance(constant, Node) else None

    def _is_extreme(self, node: Node) -> bool:
        if node.target in CLAMP:
            # A maximum of two tensors is the largest magnitude of minimum and maximum, one with a constant a bound.
            return node.target is aten.maximum.default and all(number(value) is None for value in node.args)
        return node.target in EXTREMES | SUB

    def _check_range(self, node: Node) -> None:
        if self.range.low is not None and self.dtype != dtype_of(node):
            self.matcher.fail(
                node,
                RefusalKind.DTYPE,
                "the range is computed in {node_dtype}, but divided in {dtype}",
                "computed in one dtype it fuses",
                node_dtype=dtype_of(node),
                dtype=self.dtype,
            )

    def _cast(self, node: Node) -> Any:
        (self.scale_dtypes if self.dtype is None else self.amax_dtypes).append(dtype_of(node))
        return self.matcher.take(node).args[0]

    def _bound(self, node: Node) -> Any:
        matcher, divided = self.matcher, self.dtype is not None
        if divided and node.target in CEILING and (bound := self._upper_bound(node)):
            return bound
        inner, low, high = matcher.clamp(node) or (None, None, None)
        powers = not divided and self.format is ScaleFormat.UE8M0
        given = self.amax_floor if divided else self.scale_floor if not powers else None
        taken = (low is not None and given is not None) or (
            high is not None and (not divided or self.amax_ceiling is not None or self.upper_bound is not None)
        )
        if (low, high) == (None, None) or taken:
            matcher.fail(
                node,
                RefusalKind.PATTERN,
                "{node} of {operands}",
                "one constant floor under the scale",
                node=node,
                operands=node.args,
            )
        # Rounding keeps order, so a bound of a value that is rounded later is the rounded bound.
        later = self.amax_dtypes if divided else self.scale_dtypes[self._casts_of_powers :]
        for dtype in (dtype_of(node), *reversed(later)):
            low, high = (bound if bound is None else rounded(bound, dtype) for bound in (low, high))
        # A floor that rounds to 0 bounds nothing: no magnitude is below it.
        if powers:
            if low and low < torch.finfo(torch.float32).tiny:
                matcher.fail(node, RefusalKind.CONSTANT, "the floor is {floor}", "a normal number above 0 fuses", floor=low)
            # Rounding up to a power of two keeps order too.
            self.scale_floor = max(_power_above(low), self.scale_floor or 0.0) if low else self.scale_floor
        elif not divided:
            self.scale_floor = low or None
        else:
            if low and self.amax_of_zeros is not None:
                matcher.fail(
                    node,
                    RefusalKind.FUNCTION,
                    "max |x| is bounded from below and has a constant for rows of zeros",
                    "one of both fuses",
                )
            if low and self.upper_bound is not None:
                matcher.fail(
                    node,
                    RefusalKind.FUNCTION,
                    "max |x| is bounded from below before it is bounded above by scale_ub",
                    "after it, it fuses",
                )
            self.amax_floor = low or self.amax_floor
            self.amax_ceiling = self.amax_ceiling if high is None else high
            if self.amax_floor and self.amax_ceiling is not None and self.amax_floor > self.amax_ceiling:
                matcher.fail(
                    node,
                    RefusalKind.FUNCTION,
                    "max |x| is bounded to {bounds}, which is empty",
                    "bounds in their order fuse",
                    bounds=(self.amax_floor, self.amax_ceiling),
                )
        matcher.take(node)
        return inner

    def _instead_of_zero(self, node: Node) -> Any:
        """amax of where(amax > 0, amax, a constant)."""
        matcher = self.matcher
        condition, value, other = node.args
        constant = matcher.number(other)
        positive = condition.target is aten.gt.Scalar and condition.args[1] == 0
        if not positive or constant is None or not matcher.same(condition.args[0], value):
            matcher.fail(
                node,
                RefusalKind.PATTERN,
                "{node} of {operands}",
                "where(max |x| > 0, max |x|, a constant)",
                node=node,
                operands=node.args,
            )
        if self.amax_floor is not None or self.amax_of_zeros is not None:
            matcher.fail(
                node,
                RefusalKind.FUNCTION,
                "max |x| is bounded from below and has a constant for rows of zeros",
                "one of both fuses",
            )
        matcher.take(condition)
        self.amax_of_zeros = constant
        return matcher.take(node).args[1]

    def _upper_bound(self, node: Node) -> Any:
        """What a tensor of one element, given to the graph, bounds above."""
        for value, bound in (node.args[:2], node.args[1::-1]):
            given = origin(bound)
            if not isinstance(given, Node) or given.op == "call_function" or not is_one_element(bound):
                continue
            if dtype_of(bound) != torch.float32 or dtype_of(node) != torch.float32 or self.upper_bound is not None:
                self.matcher.fail(node, RefusalKind.PATTERN, "{node}", "one upper bound of amax in fp32", node=node)
            for dtype in self.amax_dtypes:
                if not holds_exactly(dtype, dtype_of(lossless(bound))):
                    self.matcher.fail(
                        node,
                        RefusalKind.DTYPE,
                        "scale_ub is rounded to {dtype} with amax",
                        "kept in fp32 it fuses",
                        dtype=dtype,
                    )
            self.upper_bound = self.matcher.through_views(bound)
            self.matcher.take(node)
            return value
        return None

    def _power_of_two(self, node: Node) -> Any:
        """s of 2 ** ceil(log2(s))."""
        matcher = self.matcher
        base, exponent = (2.0, node.args[0]) if node.target is aten.exp2.default else (number(node.args[0]), node.args[1])
        if base != 2 or self.format is not ScaleFormat.FP32 or dtype_of(node) != torch.float32:
            matcher.fail(
                node, RefusalKind.PATTERN, "{node}", "a scale of max |x| / qmax, or 2 ** ceil(log2(scale)) in fp32", node=node
            )
        matcher.take(node)
        logarithm = matcher.to(
            matcher.to(exponent, {aten.ceil.default}, "the exponent of a scale, rounded up").args[0],
            {aten.log2.default},
            "the exponent of a scale",
        )
        self.format = ScaleFormat.UE8M0
        self._casts_of_powers = len(self.scale_dtypes)
        inner = matcher.through_views(logarithm.args[0])
        while isinstance(inner, Node) and inner.target in ABS:  # of what is not negative
            inner = matcher.through_views(matcher.take(inner).args[0])
        return inner

    def _divide(self, node: Node) -> Any:
        found = self.division_of(node)
        if found is None:
            self.matcher.fail(
                node,
                RefusalKind.PATTERN,
                "{node} of {operands}",
                "amax / qmax, or amax * (1 / qmax), with a constant qmax",
                node=node,
                operands=node.args,
            )
        self.dtype = dtype_of(node)
        self.division, self.qmax = found
        self._check_rounding(node)
        value = node.args[0] if isinstance(node.args[0], Node) and number(node.args[0]) is None else node.args[1]
        for constant in node.args[:2]:
            self.matcher.number(constant)
        self.matcher.take(node)
        return value

    def _check_rounding(self, node: Node) -> None:
        for dtype in self.scale_dtypes:
            if dtype != torch.float32 and not holds_exactly(dtype, self.dtype):
                self.matcher.fail(
                    node,
                    RefusalKind.DTYPE,
                    "the scale is rounded to {dtype} after a division in {divided}",
                    "divided in that dtype, or not rounded, it fuses",
                    dtype=dtype,
                    divided=self.dtype,
                )


def _power_above(floor: float) -> float:
    """The smallest power of two that is not below ``floor``."""
    fraction, exponent = math.frexp(floor)
    return math.ldexp(1.0, exponent - (fraction == 0.5))


def _inverse_of(constant: float) -> float | None:
    """q of the Python number 1 / q, for a q of few digits."""
    if not constant:
        return None
    for digits in range(1, 10):
        q = float(f"{1 / constant:.{digits}g}")
        if 1.0 / q == constant:
            return q
    return None
