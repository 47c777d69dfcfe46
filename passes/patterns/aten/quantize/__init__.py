"""Quantisation of activations to fp8 and int8, as torchao, vLLM, DeepGEMM and plain code write it.

::

    amax = x.abs().amax(-1, keepdim=True)       over a row, a group of it or everything; [bounds]    x [..., K]
    scale = amax / qmax                         [power of two], [clamp_min: scale_floor]; in fp32    [..., 1]
    value = x32 / scale                         or x32 * scale.reciprocal(), or x32 * (qmax / amax)
    q = value.clamp(-qmax, qmax).to(fp8)        or without the clamp                                 <- anchor
    q = (value.round() [+ zero]).clamp(-128, 127).to(int8)                                           <- anchor

``narrowing`` reads what stands between the scaled value and the cast, ``use`` how the scale is applied, ``scale`` how it
is computed and ``extent`` over what, ``zero_point`` its companion, ``layout`` how it lies in memory.
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
from helion_compile.passes.patterns.aten.quantize.apply_scale import Use, read_use
from helion_compile.passes.patterns.aten.quantize.clamp_round_cast import Narrowing, read_narrowing
from helion_compile.passes.patterns.aten.quantize.reduction import Grouped, grouped, one_value, repeated
from helion_compile.passes.patterns.aten.quantize.scale import Scale, factor_scale, read_scale, static_scale
from helion_compile.passes.patterns.aten.quantize.scale_layout import read_layout
from helion_compile.passes.patterns.aten.quantize.zero_point import read_zero_point
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
    narrowing = read_narrowing(matcher)
    if narrowing is None:
        return None
    use = read_use(matcher, narrowing.scaled)
    x = matcher.exact(use.x)
    if dtype_of(x) not in _PLAIN_FLOATS:
        matcher.fail(x, RefusalKind.DTYPE, "x is {x_dtype}", "bf16, fp16 and fp32 fuse", x_dtype=dtype_of(x))
    given = static_scale(matcher, use)
    if given is not None:
        return _static(matcher, narrowing, use, x, given)
    return _dynamic(matcher, narrowing, use, x)


def _static(matcher: Matcher, narrowing: Narrowing, use: Use, x: Node, scale: Node) -> Match:
    if narrowing.zero is not None:
        matcher.fail(
            narrowing.zero,
            RefusalKind.FUNCTION,
            "a zero point with a static scale is in no pattern yet",
            "without one, or dynamic, it fuses",
        )
    one_value(matcher, use.at_use, narrowing.scaled)
    dtype = dtype_of(matcher.anchor)
    op = Quantize(
        x_dtype=dtype_of(x),
        dtype=dtype,
        qmax=float((torch.iinfo if dtype == torch.int8 else torch.finfo)(dtype).max),
        granularity=Granularity.TENSOR,
        dynamic=False,
        scale_dtype=torch.float32,
        use=use.kind,
        clamp=narrowing.clamp,
    )
    return matcher.match(op, {"x": x, "scale": scale}, {"q": matcher.anchor})


def _dynamic(matcher: Matcher, narrowing: Narrowing, use: Use, x: Node) -> Match:
    scales, extent = repeated(matcher, use.source, x) or (None, None)
    rows = None
    if scales is not None:
        use, rows = dataclasses.replace(use, at_use=scales, source=scales), shape_of(scales)[:-1]
    scale = factor_scale(matcher, use) if use.kind is ScaleUse.MULTIPLY_FACTOR else read_scale(matcher, use)
    extent = extent or grouped(matcher, x, scale, use, narrowing.scaled)
    _check_measured(matcher, narrowing.scaled, x, extent, scale, rows)
    for lossy in (dtype for dtype in scale.amax_dtypes if not holds_exactly(dtype, dtype_of(x))):
        matcher.fail(
            narrowing.scaled,
            RefusalKind.DTYPE,
            "the largest magnitude of {x_dtype} values is rounded to {lossy}",
            "kept in {x_dtype} it fuses",
            x_dtype=dtype_of(x),
            lossy=lossy,
        )
    zero = read_zero_point(matcher, narrowing, scale)
    layout, copies = read_layout(matcher, scale.out, extent)
    op = Quantize(
        x_dtype=dtype_of(x),
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
        clamp=narrowing.clamp,
        amax_ceiling=scale.amax_ceiling,
        amax_floor=scale.amax_floor,
        amax_of_zeros=scale.amax_of_zeros,
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
