"""Quantisation as vLLM's graphs hold it: operators of its CUDA library under ``auto_functionalized``.

::

    _C.dynamic_per_token_scaled_fp8_quant(result!, input, scale!, scale_ub)      scale = max(amax / 448, 1 / (448 * 512))
    _C.dynamic_scaled_fp8_quant(result!, input, scale!)                          one scale a tensor
    _C.static_scaled_fp8_quant(result!, input, scale, group_shape)               a scale that is given
    _C.per_token_group_fp8_quant(input, output_q!, output_s!, group_size, eps, fp8_min, fp8_max, scale_ue8m0, …)
    _C.static_scaled_int8_quant(result!, input, scale, azp)                      a given scale, and a zero point or none
    _C.rms_norm_dynamic_per_token_quant(result!, input, weight, scale!, epsilon, scale_ub, residual!)
    _C.rms_norm_per_block_quant(result!, input, weight, scale!, epsilon, scale_ub, residual!, group_size, …)
    _C.rms_norm_static_fp8_quant, _C.fused_add_rms_norm_static_fp8_quant, _C.silu_and_mul_quant (result!, input, …, scale, …)

The last five compute a norm or an activation as well (``vllm_norm``, ``vllm_activation``): the value between stands in no
node, and the operator's own stands for it.  What is divided, multiplied and bounded is that of ``csrc``:
``quantization/w8a8`` and ``fused_kernels``.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import dtype_name, dtype_of, known_equal, rounded, same_shape, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops import vllm_activation
from helion_compile.passes.patterns.custom_ops.op_call import name_of
from helion_compile.passes.patterns.custom_ops.vllm_norm import FUSED, FUSED_STATIC
from helion_compile.passes.patterns.custom_ops.vllm_schemas import VllmWalk
from helion_compile.passes.semantics import Granularity, Quantize, ScaleFormat, ScaleLayout, ScaleUse

__all__ = ["ANCHORS", "NAME", "match_at"]

NAME = "quantize"
_TOKEN = "_C.dynamic_per_token_scaled_fp8_quant.default"
_TENSOR = "_C.dynamic_scaled_fp8_quant.default"
_STATIC = "_C.static_scaled_fp8_quant.default"
_GROUP = "_C.per_token_group_fp8_quant.default"
_INT8_STATIC = "_C.static_scaled_int8_quant.default"
# Known, and why they are not read.
_UNREAD = {
    "_C.dynamic_scaled_int8_quant.default": "multiplies by 127 / amax in one division, which is another last bit than a "
    "reciprocal gives; int8 by a scale that is given can be read",
    "_C.per_token_group_fp8_quant_packed.default": "packs four scales into an int32; fp32 scales can be read",
}
_STATIC_BEHIND = FUSED_STATIC | {vllm_activation.FUSED}
ANCHORS = frozenset({_TOKEN, _TENSOR, _STATIC, _GROUP, _INT8_STATIC, *_UNREAD}) | FUSED | _STATIC_BEHIND
_QMAX = 448.0
_FLOOR = 1 / (_QMAX * 512)  # min_scaling_factor


def match_at(anchor: Node) -> Match | None:
    """The quantisation that such an operator computes; None where nobody reads its result."""
    matcher = VllmWalk(anchor)
    name = name_of(anchor)
    if name in _UNREAD:
        matcher.fail(anchor, f"{matcher.name} {_UNREAD[name]}")
    if name == _GROUP:
        return _group(matcher)
    if not (q := matcher.new("result")):
        return None
    if name in FUSED:
        return _behind_norm(matcher, q)
    (x,) = matcher.tensors("input")
    if name in _STATIC_BEHIND:
        return _static(matcher, anchor, q, x_dtype=dtype_of(x))
    if name in (_STATIC, _INT8_STATIC):
        return _static(matcher, x, q)
    inputs = {"x": x}
    facts = dict(granularity=Granularity.TENSOR, use=ScaleUse.MULTIPLY_RECIPROCAL)
    if name == _TOKEN:
        facts = _bounded(matcher, inputs) | dict(use=ScaleUse.DIVIDE)
    matcher.forget("result", "scale")
    return _region(matcher, q, matcher.new("scale"), inputs, facts)


def _bounded(matcher: VllmWalk, inputs: dict[str, Node]) -> dict:
    """The floor under every scale, and the bound above the magnitude where one is given."""
    (scale_ub,) = matcher.get("scale_ub")
    if scale_ub is not None:
        (inputs["scale_ub"],) = matcher.tensors("scale_ub")
    return dict(scale_floor=rounded(_FLOOR, torch.float32), scale_ub=scale_ub is not None)


def _static(matcher: VllmWalk, x: Node, q: tuple[Node, ...], x_dtype: torch.dtype | None = None) -> Match:
    (scale,) = matcher.tensors("scale")
    integers = name_of(matcher.anchor) == _INT8_STATIC
    if integers and matcher.get("azp") != (None,):
        matcher.fail(matcher.anchor, f"{matcher.name} is given a zero point with a given scale; without one it can be read")
    if shape_of(scale) not in ((), (1,), (1, 1)):
        matcher.fail(
            matcher.anchor, f"{matcher.name} is given scales of shape {list(shape_of(scale))}; a single one can be read"
        )
    matcher.forget("result")
    facts = dict(granularity=Granularity.TENSOR, dynamic=False, use=ScaleUse.MULTIPLY_RECIPROCAL)
    if integers:
        facts |= dict(dtype=torch.int8, qmax=127.0, clamp=(-128.0, 127.0), use=ScaleUse.DIVIDE)
    return _region(matcher, q, (), {"x": x, "scale": scale}, facts, x_dtype)


def _group(matcher: VllmWalk) -> Match | None:
    if not (q := matcher.new("output_q")):
        return None
    (x,) = matcher.tensors("input")
    group, eps, low, high, ue8m0 = matcher.get("group_size", "eps", "fp8_min", "fp8_max", "scale_ue8m0")
    if (low, high) != (-_QMAX, _QMAX):
        matcher.fail(matcher.anchor, f"{matcher.name} clamps to [{low}, {high}]; ±{_QMAX:g} can be read")
    scale = matcher.new("output_s")
    facts = dict(
        granularity=Granularity.GROUP,
        group=group,
        amax_floor=rounded(eps, torch.float32),
        use=ScaleUse.DIVIDE,
        scale_format=ScaleFormat.UE8M0 if ue8m0 else ScaleFormat.FP32,
        scale_layout=_layout(matcher, scale, x, group),
    )
    if ue8m0:  # a scale is bounded before it is rounded up; 1e-10 is below what the bound of amax gives where eps is larger
        facts["scale_floor"] = rounded(1e-10, torch.float32)
    matcher.forget("output_q", "output_s")
    return _region(matcher, q, scale, {"x": x}, facts)


def _behind_norm(matcher: VllmWalk, q: tuple[Node, ...]) -> Match:
    (x,) = matcher.tensors("input")
    scale = matcher.new("scale")
    inputs = {"x": matcher.anchor}
    facts = _bounded(matcher, inputs) | dict(use=ScaleUse.DIVIDE)
    if "group_size" in matcher.arguments:
        (group,) = matcher.get("group_size")
        facts |= dict(
            granularity=Granularity.GROUP,
            group=group,
            use=ScaleUse.MULTIPLY_RECIPROCAL,
            scale_layout=_layout(matcher, scale, x, group),
        )
        if matcher.arguments.get("scale_ue8m0"):
            found = f"{matcher.name} rounds scales to powers of two (scale_ue8m0) in a way that is not read yet"
            matcher.fail(matcher.anchor, f"{found}; without scale_ue8m0 it fuses")
    return _region(matcher, q, scale, inputs, facts, x_dtype=dtype_of(x))


def _layout(matcher: VllmWalk, scale: tuple[Node, ...], x: Node, group: int) -> ScaleLayout:
    """How the memory that the scales are written to is laid out."""
    if not scale:
        return ScaleLayout.ROW_MAJOR
    value = scale[0].meta["val"]
    *_, tokens, hidden = shape_of(x)
    if not same_shape(shape_of(scale[0]), (tokens, hidden // group)):
        matcher.fail(scale[0], f"expected scales [{tokens}, {hidden // group}], found {list(shape_of(scale[0]))}")
    strides = {
        ScaleLayout.ROW_MAJOR: (hidden // group, 1),
        ScaleLayout.COLUMN_MAJOR: (1, tokens),
        ScaleLayout.TMA_ALIGNED: (1, -4 * (tokens // -4)),
    }
    for layout, stride in strides.items():
        if all(map(known_equal, value.stride(), stride)):
            return layout
    matcher.fail(
        scale[0], f"scales of strides {value.stride()} are in no known layout; row- and column-major ones can be read"
    )


def _region(
    matcher: VllmWalk,
    q: tuple[Node, ...],
    scale: tuple[Node, ...],
    inputs: dict[str, Node],
    facts: dict,
    x_dtype: torch.dtype | None = None,
) -> Match:
    facts = dict(dtype=torch.float8_e4m3fn, qmax=_QMAX, clamp=(-_QMAX, _QMAX)) | facts
    if (dtype := dtype_of(q[0])) != facts["dtype"]:
        matcher.fail(matcher.anchor, f"{matcher.name} gives {dtype_name(dtype)}; {dtype_name(facts['dtype'])} can be read")
    op = Quantize(x_dtype=x_dtype or dtype_of(inputs["x"]), scale_dtype=torch.float32, **facts)
    outputs = {"q": q} | ({"scale": scale} if scale else {})
    return matcher.match(op, inputs, outputs)
