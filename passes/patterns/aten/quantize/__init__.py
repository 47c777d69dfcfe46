# SPDX-License-Identifier: Apache-2.0
"""Quantisation of activations to fp8 and int8, as torchao, vLLM, DeepGEMM and plain code write it.

::

    amax = x.abs().amax(-1, keepdim=True)       over a row, a group of it or everything; [bounds]    x [..., K]
    scale = amax / qmax                         [power of two], [clamp_min: scale_floor]; in fp32    [..., 1]
    value = x32 / scale                         or x32 * scale.reciprocal(), or x32 * (qmax / amax)
    q = value.clamp(-qmax, qmax).to(fp8)        or without the clamp                                 <- anchor
    q = (value.round() [+ zero]).clamp(-128, 127).to(int8)                                           <- anchor

As a graph, fp8 per token is ``x → abs → amax → div(qmax) → div(x, ·) → clamp → cast``.  Each gives a ``Quantize``.

``clamp_round_cast`` matches what stands between the scaled value and the cast, ``apply_scale`` how the scale is applied,
``find_scale`` and ``scale`` how it is computed, ``reduction`` and ``granularity`` over what, ``zero_point`` its companion,
``scale_layout`` how it lies in memory.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import (
    CASTS,
    cast_dtype,
    dtype_of,
    holds_exactly,
    same_shape,
    shape_of,
    unshaped,
)
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.aten.quantize.apply_scale import AppliedScale, match_applied_scale
from helion_compile.passes.patterns.aten.quantize.clamp_round_cast import QuantizingCast, match_quantizing_cast
from helion_compile.passes.patterns.aten.quantize.find_scale import find_factor_scale, find_scale, find_static_scale
from helion_compile.passes.patterns.aten.quantize.granularity import (
    Grouped,
    check_one_value,
    find_granularity,
    find_narrow_rows,
    find_repeated,
)
from helion_compile.passes.patterns.aten.quantize.scale import Scale
from helion_compile.passes.patterns.aten.quantize.scale_layout import match_layout
from helion_compile.passes.patterns.aten.quantize.zero_point import match_zero_point
from helion_compile.passes.patterns.matcher import Matcher
from helion_compile.passes.semantics import Granularity, Quantize, ScaleUse

__all__ = ["ANCHORS", "NAME", "match_at"]

NAME = "quantize"
ANCHORS = CASTS
_FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz})
_PLAIN_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def match_at(anchor: Node) -> Match | None:
    """The quantisation that ends in a cast to fp8 or int8; None for any other cast."""
    dtype = cast_dtype(anchor)
    if dtype not in _FP8 and dtype != torch.int8 or not shape_of(anchor):
        return None
    matcher = Matcher(anchor)
    cast = match_quantizing_cast(matcher)
    if cast is None:
        return None
    use = match_applied_scale(matcher, cast.scaled)
    x = matcher.exact(use.x)
    if dtype_of(x) not in _PLAIN_FLOATS:
        matcher.fail(x, RefusalKind.DTYPE, "x is {x_dtype}", "bf16, fp16 and fp32 fuse", x_dtype=dtype_of(x))
    given = find_static_scale(matcher, use)
    if given is not None:
        return _static(matcher, cast, use, x, given)
    return _dynamic(matcher, cast, use, x)


def _static(matcher: Matcher, cast: QuantizingCast, use: AppliedScale, x: Node, scale: Node) -> Match:
    if cast.zero is not None:
        matcher.fail(
            cast.zero,
            RefusalKind.FUNCTION,
            "a zero point with a static scale is in no pattern yet",
            "without one, or dynamic, it fuses",
        )
    check_one_value(matcher, use.at_use, cast.scaled)
    dtype = dtype_of(matcher.anchor)
    x = find_narrow_rows(matcher, x)
    op = Quantize(
        x_dtype=dtype_of(x),
        dtype=dtype,
        qmax=float((torch.iinfo if dtype == torch.int8 else torch.finfo)(dtype).max),
        granularity=Granularity.TENSOR,
        dynamic=False,
        scale_dtype=torch.float32,
        use=use.kind,
        clamp=cast.clamp,
    )
    return matcher.match(op, {"x": x, "scale": scale}, {"q": matcher.anchor})


def _dynamic(matcher: Matcher, cast: QuantizingCast, use: AppliedScale, x: Node) -> Match:
    scales, extent = find_repeated(matcher, use.source, x) or (None, None)
    rows = None
    if scales is not None:
        use, rows = dataclasses.replace(use, at_use=scales, source=scales), shape_of(scales)[:-1]
    scale = find_factor_scale(matcher, use) if use.kind is ScaleUse.MULTIPLY_FACTOR else find_scale(matcher, use)
    extent = extent or find_granularity(matcher, x, scale.range.whole, use.at_use, cast.scaled)
    _check_measured(matcher, cast.scaled, x, extent, scale, rows)
    for lossy in (dtype for dtype in scale.amax_dtypes if not holds_exactly(dtype, dtype_of(x))):
        matcher.fail(
            cast.scaled,
            RefusalKind.DTYPE,
            "the largest magnitude of {x_dtype} values is rounded to {lossy}",
            "kept in {x_dtype} it fuses",
            x_dtype=dtype_of(x),
            lossy=lossy,
        )
    zero = match_zero_point(matcher, cast, scale)
    layout, copies = match_layout(matcher, scale.out, extent)
    op = Quantize(
        x_dtype=dtype_of(extent.x),
        dtype=dtype_of(matcher.anchor),
        qmax=scale.qmax,
        granularity=extent.granularity,
        group=extent.group,
        zero_point=bool(zero),
        scale_dtype=scale.dtype,
        division=scale.division,
        scale_format=scale.format,
        scale_layout=layout,
        scale_ub=scale.upper_bound is not None,
        use=scale.use,
        clamp=cast.clamp,
        amax_ceiling=scale.amax_ceiling,
        amax_floor=scale.amax_floor,
        amax_of_zeros=scale.amax_of_zeros,
        zero_of_any_sign=scale.zero_of_any_sign,
        scale_floor=scale.scale_floor,
    )
    inputs: dict[str, Node] = {"x": extent.x}
    if scale.upper_bound is not None:
        inputs["scale_ub"] = scale.upper_bound
    outputs: dict[str, Any] = {"q": matcher.anchor, "scale": copies}
    return matcher.match(op, inputs, outputs | ({"zero": zero} if zero else {}))


def _check_measured(matcher: Matcher, at: Node, x: Node, extent: Grouped, scale: Scale, rows: Any) -> None:
    """Check that the scale is taken from the x that is scaled, seen in the same shape where that matters.

    ``rows``: the shape of the scales that were repeated for each value of a group, or None.
    """
    measured = matcher.exact(scale.x)
    if rows is not None and same_shape(shape_of(measured), (*rows, extent.group)) and unshaped(measured) is unshaped(x):
        matcher.through_views(measured)
        return
    if extent.granularity is Granularity.TENSOR:
        if unshaped(measured) is unshaped(x):
            matcher.through_views(measured)
            return
    if not matcher.same(measured, x):
        matcher.fail(
            at,
            RefusalKind.FUNCTION,
            "the scale is taken from {measured}, but {x} is scaled with it",
            "a scale from the largest magnitude of the same x fuses",
            measured=measured,
            x=x,
        )
