# SPDX-License-Identifier: Apache-2.0
"""From the scaled value to the cast: clamp, rounding to whole numbers, zero point.

::

    x / scale [→ clamp] → cast to fp8
    x / scale → round [→ add(zero)] → clamp → cast to int8

Gives ``dtype`` and ``clamp`` of a ``Quantize``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import CASTS, dtype_of, lossless, unshaped
from helion_compile.passes.patterns.matcher import ADD, CLAMP, DIV, MUL, Matcher

__all__ = ["QuantizingCast", "match_quantizing_cast"]

aten = torch.ops.aten

_ROUND = frozenset({aten.round.default})
_OTHER_ROUNDINGS = frozenset({aten.floor.default, aten.ceil.default, aten.trunc.default, aten.round.decimals})
_EXPECTED = "x / scale or x * (1 / scale)"


@dataclass(frozen=True)
class QuantizingCast:
    """``scaled`` is the division or multiplication; ``zero`` what was added to the rounded value, as it was read."""

    scaled: Node
    clamp: tuple[float, float] | None
    zero: Node | None = None


class _Bounds:
    """The clamps on the way, together one interval."""

    def __init__(self, matcher: Matcher):
        self.matcher = matcher
        self.low: float | None = None
        self.high: float | None = None
        self.lossy: Node | None = None  # a cast that rounds, if there was one

    def unclamped(self, value: Any) -> Any:
        """What is behind views, clamps to constants and casts."""
        matcher = self.matcher
        while isinstance(value := matcher.through_views(value), Node):
            if value.target in CLAMP and (found := matcher.clamp(value)):
                matcher.take(value)
                inner, low, high = found
                if (self.low is not None and low is not None) or (self.high is not None and high is not None):
                    matcher.fail(
                        value,
                        RefusalKind.PATTERN,
                        "{value} and another",
                        "one clamp before the cast to {dtype}",
                        value=value,
                        dtype=dtype_of(matcher.anchor),
                    )
                self.low, self.high = self.low if low is None else low, self.high if high is None else high
                value = inner
            elif value.target in CASTS:
                matcher.take(value)
                self.lossy = self.lossy if lossless(value) is not value else value
                value = value.args[0]
            else:
                break
        return value

    @property
    def interval(self) -> tuple[float, float] | None:
        if (self.low, self.high) == (None, None):
            return None
        if self.low is None or self.high is None:
            self.matcher.fail(
                self.matcher.anchor,
                RefusalKind.FUNCTION,
                "the values are clamped to {bounds}",
                "a clamp on both sides fuses",
                bounds=(self.low, self.high),
            )
        if self.low > self.high:
            self.matcher.fail(
                self.matcher.anchor,
                RefusalKind.FUNCTION,
                "the values are clamped to {bounds}, which is empty",
                "bounds in their order fuse",
                bounds=(self.low, self.high),
            )
        return self.low, self.high


def match_quantizing_cast(matcher: Matcher) -> QuantizingCast | None:
    """What the anchor, a cast, does to a scaled value; None for a cast to int8 of something else."""
    bounds = _Bounds(matcher)
    value = bounds.unclamped(matcher.anchor.args[0])
    if dtype_of(matcher.anchor) == torch.int8:
        return _integer(matcher, bounds, value)
    scaled = _scaled(matcher, value, bounds)
    return QuantizingCast(scaled, bounds.interval)


def _integer(matcher: Matcher, bounds: _Bounds, value: Any) -> QuantizingCast | None:
    if not isinstance(value, Node):
        return None
    zero = None
    if value.target in ADD and value.kwargs.get("alpha", 1) == 1:
        for rounding, other in (value.args[:2], value.args[1::-1]):
            behind = unshaped(rounding)
            if isinstance(behind, Node) and behind.target in _ROUND and isinstance(other, Node):
                zero = other
                matcher.take(value)
                value = matcher.through_views(rounding)
                break
    if value.target not in _ROUND:
        if value.target in DIV | MUL and bounds.low is not None and zero is None:
            matcher.fail(
                value,
                RefusalKind.FUNCTION,
                "{value} is cast to int8 without rounding, which truncates",
                "torch.round before fuses",
                value=value,
            )
        if value.target in _OTHER_ROUNDINGS and bounds.low is not None:
            matcher.fail(
                value,
                RefusalKind.FUNCTION,
                "the values are rounded by {value}",
                "torch.round, half to even, fuses",
                value=value,
            )
        return None
    value = matcher.take(value).args[0]
    if zero is None:
        # Whole bounds and rounding to whole numbers commute.
        value = bounds.unclamped(value)
        if any(bound is not None and bound != int(bound) for bound in (bounds.low, bounds.high)):
            matcher.fail(
                matcher.anchor,
                RefusalKind.FUNCTION,
                "the values are clamped to {bounds}",
                "whole bounds fuse",
                bounds=(bounds.low, bounds.high),
            )
    return QuantizingCast(_scaled(matcher, value, bounds), bounds.interval, zero)


def _scaled(matcher: Matcher, value: Any, bounds: _Bounds) -> Node:
    scaled = matcher.to(value, DIV | MUL, _EXPECTED)
    if dtype_of(scaled) != torch.float32:
        matcher.fail(
            scaled,
            RefusalKind.DTYPE,
            "x is scaled in {scaled_dtype}",
            "scaled in fp32, as x.float() / scale, it fuses",
            scaled_dtype=dtype_of(scaled),
        )
    if bounds.lossy:
        matcher.fail(
            bounds.lossy,
            RefusalKind.DTYPE,
            "the scaled value is rounded to {rounded} before the cast to {dtype}",
            "cast from fp32 it fuses",
            rounded=dtype_of(bounds.lossy),
            dtype=dtype_of(matcher.anchor),
        )
    return scaled
