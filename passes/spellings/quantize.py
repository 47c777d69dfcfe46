"""Dynamic quantisation to fp8, one scale a token, as torchao, vLLM and plain code write it.

::

    amax = x.abs().amax(-1, keepdim=True)       or max(dim).values; [clamp_min: amax_floor]     x [..., K]
    scale = amax / qmax                         [clamp_min: scale_floor]; rounded to fp32       [..., 1]
    value = x32 / scale                         or x32 * scale.reciprocal()
    q = value.clamp(-qmax, qmax).to(fp8)        or without the clamp                            <- anchor
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from passes.meanings import Quantize, ScaleUse
from passes.region import Region
from passes.spellings.walk import ABS, CLAMP, DIV, MUL, RECIPROCAL, Walk
from passes.values import (
    CASTS,
    RESHAPES,
    cast_dtype,
    describe,
    dtype_name,
    dtype_of,
    holds_exactly,
    known_equal,
    lossless,
    origin,
    rounded,
    shape_of,
    unshaped,
)

__all__ = ["ANCHORS", "NAME", "read"]

aten = torch.ops.aten

NAME = "quantize"
ANCHORS = CASTS
_FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz})
_A_TENSOR = "one scale a tensor is not read yet; one scale a token, amax over the last dimension, fuses"
_PLAIN_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def read(anchor: Node) -> Region | None:
    """The quantisation that ends in a cast to fp8; None for any other cast."""
    dtype = cast_dtype(anchor)
    if dtype == torch.int8:
        return _refuse_int8(anchor)
    if dtype not in _FP8 or not shape_of(anchor):
        return None
    walk = Walk(anchor)
    value, bound = _unclamped(walk, anchor.args[0])
    if dtype_of(value) != torch.float32:
        walk.fail(value, f"x is scaled in {dtype_name(dtype_of(value))}; scaled in fp32, as x.float() / scale, it fuses")
    x, at_use, use = _scaled(walk, value)
    scale = walk.through_views(at_use)
    steps = _Scale(walk, scale)

    x, measured = walk.exact(x), walk.exact(steps.x)
    if not walk.same(measured, x):
        walk.fail(
            value,
            f"the scale is taken from {describe(measured)}, but {describe(x)} is scaled with it; "
            "a scale from the largest magnitude of the same x fuses",
        )
    _refuse_groups(walk, x)
    if dtype_of(x) not in _PLAIN_FLOATS:
        walk.fail(x, f"x is {dtype_name(dtype_of(x))}; bf16, fp16 and fp32 fuse")
    walk.one_number_a_row(at_use, over=x, what="the scale", at=value)
    for lossy in (dtype for dtype in steps.amax_dtypes if not holds_exactly(dtype, dtype_of(x))):
        walk.fail(
            value,
            f"the largest magnitude of {dtype_name(dtype_of(x))} values is rounded to {dtype_name(lossy)}; "
            f"kept in {dtype_name(dtype_of(x))} it fuses",
        )
    if bound is not None and bound != steps.qmax:
        walk.fail(
            anchor,
            f"the values are clamped to ±{bound:g}, but the scale is amax / {steps.qmax:g}; one bound for both fuses",
        )

    meaning = Quantize(
        x_dtype=dtype_of(x),
        dtype=dtype,
        qmax=steps.qmax,
        scale_dtype=steps.dtype,
        use=use,
        clamp=None if bound is None else (-bound, bound),
        amax_floor=steps.amax_floor,
        scale_floor=steps.scale_floor,
    )
    return walk.region(meaning, {"x": x}, {"q": anchor, "scale": walk.copies(scale)})


def _unclamped(walk: Walk, value: Any) -> tuple[Node, float | None]:
    """The scaled value, and the ± bound that it is clamped to; None when it is not."""
    low = high = lossy = None
    while isinstance(value := walk.through_views(value), Node):
        if found := walk.clamp(walk.take(value)):
            inner, new_low, new_high = found
            if (low is not None and new_low is not None) or (high is not None and new_high is not None):
                walk.fail(value, f"expected one clamp before the cast to fp8, found {describe(value)} and another")
            low, high = (new_low if low is None else low), (new_high if high is None else high)
            value = inner
        elif value.target in CASTS:
            lossy = lossy if lossless(value) is not value else value
            value = value.args[0]
        else:
            break
    scaled = walk.to(value, DIV | MUL, "x / scale or x * (1 / scale)")
    if lossy and dtype_of(scaled) == torch.float32:
        name = dtype_name(dtype_of(lossy))
        walk.fail(lossy, f"the scaled value is rounded to {name} before the cast to fp8; cast from fp32 it fuses")
    if (low, high) == (None, None):
        return scaled, None
    if low is None or high is None or low != -high:
        walk.fail(walk.anchor, f"the values are clamped to [{low}, {high}]; a clamp to both -qmax and qmax fuses")
    return scaled, high


def _scaled(walk: Walk, value: Node) -> tuple[Any, Any, ScaleUse]:
    """x, the scale as the division or multiplication reads it, and how it does."""
    left, right = value.args[:2]
    if value.target in DIV:
        return left, right, ScaleUse.DIVIDE
    for x, factor in ((left, right), (right, left)):
        reciprocal = walk.times_one(factor)
        if isinstance(reciprocal, Node) and reciprocal.target in RECIPROCAL:
            walk.one_number_a_row(factor, over=x, what="1 / scale", at=value)
            return x, walk.take(reciprocal).args[0], ScaleUse.MULTIPLY_RECIPROCAL
    for factor in (left, right):
        product = origin(factor)
        if isinstance(product, Node) and product.target in MUL | DIV and known_equal((shape_of(factor) or (0,))[-1], 1):
            walk.fail(
                value,
                f"x is multiplied by {describe(product)}; x / scale and x * (1 / scale) with scale = amax / qmax fuse, "
                "qmax / amax rounds differently",
            )
    walk.fail(
        value,
        f"expected x / scale or x * (1 / scale), found {describe(value)} of {describe(left)} and {describe(right)}: "
        "a static scale, or none, is not read yet",
    )


class _Scale:
    """The steps between the largest magnitude and the scale, read from the scale upwards."""

    def __init__(self, walk: Walk, scale: Any):
        self.walk = walk
        self.dtype: torch.dtype | None = None  # in which amax / qmax is computed
        self.qmax = 0.0
        self.amax_floor: float | None = None
        self.scale_floor: float | None = None
        self.amax_dtypes: list[torch.dtype] = []  # that the largest magnitude is converted to, the last one first
        self.scale_dtypes: list[torch.dtype] = []  # that the scale is converted to, the last one first
        self.x = self._read(scale)

    def _read(self, scale: Any) -> Node:
        walk, node = self.walk, scale
        if dtype_of(node) != torch.float32:
            walk.fail(node, f"the scale, {describe(node)}, is {dtype_name(dtype_of(node))}; a scale in fp32 fuses")
        while True:
            node = walk.through_views(node)
            if not isinstance(node, Node) or node.op != "call_function":
                walk.fail(
                    node,
                    f"the scale comes from {describe(node)}: static scales are not read yet, scales taken from x fuse",
                )
            if node.target in CASTS:
                node = self._cast(node)
            elif node.target in CLAMP:
                node = self._floor(node)
            elif node.target in DIV | MUL and self.dtype is None:
                node = self._divide(node)
            elif node.target is aten.amax.default or node.target is operator.getitem:
                return self._amax(node)
            elif node.target is aten.max.default:
                walk.fail(node, _A_TENSOR)
            else:
                walk.fail(node, f"expected the scale, max |x| / qmax, found {describe(node)} in it")

    def _cast(self, node: Node) -> Any:
        (self.scale_dtypes if self.dtype is None else self.amax_dtypes).append(dtype_of(node))
        return self.walk.take(node).args[0]

    def _floor(self, node: Node) -> Any:
        divided = self.dtype is not None
        inner, low, high = self.walk.clamp(node) or (None, None, None)
        if low is None or high is not None or (self.amax_floor if divided else self.scale_floor) is not None:
            self.walk.fail(node, f"expected one constant floor under the scale, found {describe(node)} of {node.args}")
        # Rounding keeps order, so a floor under a value that is rounded later is the rounded floor.
        for dtype in (dtype_of(node), *reversed(self.amax_dtypes if divided else self.scale_dtypes)):
            low = rounded(low, dtype)
        # A floor that rounds to 0 bounds nothing: no magnitude is below it.
        if divided:
            self.amax_floor = low or None
        else:
            self.scale_floor = low or None
        self.walk.take(node)
        return inner

    def _divide(self, node: Node) -> Any:
        qmax = self.walk.number(node.args[1])
        if node.target in MUL or qmax is None:
            self.walk.fail(
                node,
                f"expected amax / qmax with a constant qmax, found {describe(node)} of {node.args}; "
                "a multiplication by 1 / qmax rounds differently",
            )
        self.dtype, self.qmax = dtype_of(node), qmax
        for dtype in self.scale_dtypes:
            if dtype != torch.float32 and not holds_exactly(dtype, self.dtype):
                self.walk.fail(
                    node,
                    f"the scale is rounded to {dtype_name(dtype)} after a division in {dtype_name(self.dtype)}; "
                    "divided in that dtype, or not rounded, it fuses",
                )
        return self.walk.take(node).args[0]

    def _amax(self, node: Node) -> Any:
        walk = self.walk
        if node.target is operator.getitem:
            largest = node.args[0]
            if largest.target is not aten.max.dim or node.args[1] != 0:
                walk.fail(node, f"expected the scale, max |x| / qmax, found {describe(largest)} in it")
            walk.take(node)
            node = largest
        if self.dtype is None:
            walk.fail(node, "the values are divided by max |x| itself; a scale of max |x| / qmax fuses")
        dims = node.args[1] if len(node.args) > 1 else []
        rank = len(shape_of(node.args[0]))
        if rank > 1 and (not dims or (not isinstance(dims, int) and len(dims) == rank)):
            walk.fail(node, _A_TENSOR)
        walk.take(node)
        walk.over_last_dim(node, dims, "the largest magnitude")
        value = node.args[0]
        while cast_dtype(value) is not None:
            self.amax_dtypes.append(dtype_of(value))
            value = walk.take(value, cheap=True).args[0]
        magnitude = walk.to(value, ABS, "the magnitude of x")
        walk.cheap.add(magnitude)
        return magnitude.args[0]


def _refuse_groups(walk: Walk, x: Node) -> None:
    if x.target not in RESHAPES:
        return
    hidden, group = (shape_of(unshaped(x)) or (1,))[-1], (shape_of(x) or (1,))[-1]
    if not known_equal(hidden, group) and isinstance(hidden, int) and isinstance(group, int) and hidden % group == 0:
        if hidden > group:
            walk.fail(x, f"one scale a group of {group} of {hidden} values is not read yet; one scale a token fuses")


def _refuse_int8(anchor: Node) -> None:
    walk = Walk(anchor)
    value = anchor.args[0]
    while isinstance(value, Node) and value.target in CLAMP:
        value = value.args[0]
    if isinstance(value, Node) and value.target is aten.round.default:
        walk.fail(anchor, "quantisation to int8 is not read yet; fp8 fuses")
