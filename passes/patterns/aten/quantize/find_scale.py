# SPDX-License-Identifier: Apache-2.0
"""The scale beside a scaled value: given to the graph, computed from x, or beside a factor.

::

    x / scale, scale an input or a constant                             static
    x → abs → amax → / qmax → [bounds] → scale; x / scale               dynamic
    x * ((1 / amax) * qmax), and scale = amax / qmax or 1 / factor      by a factor
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import (
    dtype_of,
    origin,
    shape_of,
)
from helion_compile.passes.patterns.aten.quantize.apply_scale import AppliedScale
from helion_compile.passes.patterns.aten.quantize.scale import Scale, is_one_element
from helion_compile.passes.patterns.matcher import DIV, MUL, RECIPROCAL, Matcher
from helion_compile.passes.semantics import ScaleUse

__all__ = ["find_factor_scale", "find_scale", "find_static_scale"]


def find_static_scale(matcher: Matcher, use: AppliedScale) -> Node | None:
    """The scale if it is given to the graph instead of taken from x, in fp32."""
    if use.kind is ScaleUse.MULTIPLY_FACTOR:
        return None
    root = origin(use.source)
    if not isinstance(root, Node) or root.op == "call_function":
        return None
    _check_fp32(matcher, use.source)
    if not is_one_element(use.source):
        matcher.fail(
            matcher.anchor,
            RefusalKind.SHAPE,
            "the scale comes from {root} of shape {shape}, and several static scales are in no pattern yet",
            "one for all values fuses",
            root=root,
            shape=shape_of(use.source) or (),
        )
    return matcher.through_views(use.source)


def find_scale(matcher: Matcher, use: AppliedScale) -> Scale:
    """The scale that divides, or whose reciprocal multiplies."""
    _check_fp32(matcher, use.source)
    scale = Scale(matcher, use.kind)
    out = matcher.through_views(use.source)
    scale.read(out)
    scale.out = out
    return scale


def find_factor_scale(matcher: Matcher, use: AppliedScale) -> Scale:
    """The scale beside a factor (1 / amax) * qmax: amax / qmax, or 1 / factor."""
    scale = Scale(matcher, use.kind)
    factor = matcher.through_views(use.source)
    _check_fp32(matcher, factor)
    amax = scale.read_factor(factor)
    for reader in matcher.readers(factor):
        if reader.target in RECIPROCAL:
            scale.use, scale.out = ScaleUse.MULTIPLY_FACTOR_INVERSE, matcher.take(reader)
            return scale
    for reader in matcher.readers(amax):
        if reader.target in DIV | MUL and (found := scale.division_of(reader)) and found[1] == scale.qmax:
            _check_fp32(matcher, reader)
            if dtype_of(reader) != scale.dtype:
                break
            scale.division, scale.out = found[0], matcher.take(reader)
            return scale
    matcher.fail(
        factor,
        RefusalKind.FUNCTION,
        "x is multiplied by {factor}, qmax / amax, of which nobody computes a scale",
        "with scale = amax / qmax or 1 / factor beside it, it fuses",
        factor=factor,
    )


def _check_fp32(matcher: Matcher, node: Any) -> None:
    if dtype_of(node) != torch.float32:
        matcher.fail(
            node, RefusalKind.DTYPE, "the scale, {node}, is {dtype}", "a scale in fp32 fuses", node=node, dtype=dtype_of(node)
        )
