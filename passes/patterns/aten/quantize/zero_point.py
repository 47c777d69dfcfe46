# SPDX-License-Identifier: Apache-2.0
"""The zero point beside a scale.

::

    div(min(x, 0), scale) → round → rsub(low) → clamp → cast to int8 = zero

Gives ``zero_point`` of a ``Quantize``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import (
    CASTS,
    cast_dtype,
    dtype_of,
    lossless,
    same_shape,
    shape_of,
    unshaped,
)
from helion_compile.passes.patterns.aten.quantize.clamp_round_cast import QuantizingCast
from helion_compile.passes.patterns.aten.quantize.scale import Scale
from helion_compile.passes.patterns.matcher import CLAMP, DIV, SUB, Matcher

__all__ = ["match_zero_point"]

aten = torch.ops.aten


def match_zero_point(matcher: Matcher, cast: QuantizingCast, scale: Scale) -> tuple[Node, ...]:
    """The copies of the zero point in int8; none when there is neither a zero point nor a range it would belong to."""
    low = scale.range.low
    if cast.zero is None:
        if low is not None:
            matcher.fail(
                cast.scaled,
                RefusalKind.FUNCTION,
                "the scale is that of a range, but no zero point is added",
                "with one it fuses",
            )
        return ()
    if low is None:
        matcher.fail(
            cast.zero,
            RefusalKind.FUNCTION,
            "{zero} is added to the rounded values, but the scale is that of a magnitude",
            "one of the range max(x, 0) - min(x, 0) fuses",
            zero=cast.zero,
        )
    bounds = cast.clamp
    if bounds is None or bounds[1] - bounds[0] != scale.qmax:
        matcher.fail(
            matcher.anchor,
            RefusalKind.FUNCTION,
            "the range is divided by {qmax}, but the values are clamped to {bounds}",
            "divided by the width of the clamp it fuses",
            qmax=scale.qmax,
            bounds=bounds,
        )
    zero = _in_int8(matcher, cast.zero)
    value = _unbounded(matcher, zero.args[0], bounds)
    difference = matcher.to(value, SUB, "low - round(min(x, 0) / scale)")
    if difference.args[0] != bounds[0] or difference.kwargs.get("alpha", 1) != 1:
        matcher.fail(
            difference,
            RefusalKind.PATTERN,
            "{difference}",
            "{low} - round(min(x, 0) / scale)",
            difference=difference,
            low=bounds[0],
        )
    quotient = matcher.to(
        matcher.to(difference.args[1], {aten.round.default}, "round(min(x, 0) / scale)").args[0], DIV, "min(x, 0) / scale"
    )
    least, divisor = quotient.args[:2]
    if unshaped(least) is not low or lossless(unshaped(lossless(divisor))) is not lossless(scale.out):
        matcher.fail(
            quotient,
            RefusalKind.PATTERN,
            "{operands}",
            "min(x, 0) / scale, with the x and the scale of the values",
            operands=quotient.args,
        )
    for node in (quotient, difference):
        if dtype_of(node) != scale.dtype:
            matcher.fail(
                node,
                RefusalKind.DTYPE,
                "the zero point is computed in {zero_dtype}, but the scale in {scale_dtype}",
                "computed in one dtype they fuse",
                zero_dtype=dtype_of(node),
                scale_dtype=scale.dtype,
            )
    matcher.through_views(least)
    while divisor is not lossless(scale.out):
        divisor = matcher.take(divisor, cheap=True).args[0]
    return matcher.copies(zero)


def _in_int8(matcher: Matcher, value: Any) -> Node:
    """The cast to int8 that the added value shows."""
    shape, node = shape_of(value), value
    while True:
        node = matcher.through_views(node)
        if isinstance(node, Node) and cast_dtype(node) == torch.int8:
            break
        if not isinstance(node, Node) or cast_dtype(node) not in (torch.float32, torch.int32):
            matcher.fail(node, RefusalKind.PATTERN, "{node}", "a zero point in int8", node=node)
        node = matcher.take(node, cheap=True).args[0]
    rows = (shape_of(matcher.anchor) or ())[:-1]
    if not same_shape(shape, (*rows, 1)):
        matcher.fail(
            node,
            RefusalKind.PATTERN,
            "shape {shape}",
            "a zero point of shape {expected}, one number a row",
            shape=shape or (),
            expected=(*rows, 1),
        )
    return node


def _unbounded(matcher: Matcher, value: Any, bounds: tuple[float, float]) -> Any:
    """What is clamped to ``bounds``, behind casts; whole numbers of 8 bits lose nothing in them."""
    low = high = None
    while isinstance(value := matcher.through_views(value), Node):
        if value.target in CLAMP and (found := matcher.clamp(value)):
            matcher.take(value)
            value, new_low, new_high = found
            low, high = low if new_low is None else new_low, high if new_high is None else new_high
        elif value.target in CASTS:
            value = matcher.take(value).args[0]
        else:
            break
    if (low, high) != bounds:
        matcher.fail(
            matcher.anchor,
            RefusalKind.FUNCTION,
            "the zero point is clamped to {clamp}, but the values to {bounds}",
            "one clamp for both fuses",
            bounds=bounds,
            clamp=(low, high),
        )
    return value
