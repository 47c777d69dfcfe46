# SPDX-License-Identifier: Apache-2.0
"""Quantisation as vLLM's graphs hold it: operators of its CUDA library under ``auto_functionalized``.

Before and after (x [..., K])::

    both = auto_functionalized(_C.dynamic_per_token_scaled_fp8_quant, result=empty, input=x, scale=empty, scale_ub=None)
    q, scale = both[1], both[2]             Quantize(x) -> q, scale; scale [..., 1] = max(amax / 448, 1 / (448 * 512))
    _C.dynamic_scaled_fp8_quant             the same with one scale for the tensor
    _C.static_scaled_fp8_quant              Quantize(x, scale) -> q; so _C.static_scaled_int8_quant without a zero point
    _C.per_token_group_fp8_quant            Quantize(x) -> q, scale; scale [..., K / group_size]
    _C.rms_norm_dynamic_per_token_quant     Norm(x, …) -> Quantize -> q, scale: two matches of one operator

An operator that computes a norm or an activation as well is two matches (``vllm_norm``, ``vllm_activation``): the value
between is in no node, and the operator's own stands for it.  What is divided, multiplied and bounded is that of ``csrc``:
``quantization/w8a8`` and ``fused_kernels``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of, known_equal, rounded, same_shape, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops.op_call import OpMatcher
from helion_compile.passes.patterns.custom_ops.scale_floor import ask_scale_floor
from helion_compile.passes.semantics import Granularity, Quantize, ScaleDivision, ScaleFormat, ScaleLayout, ScaleUse

__all__ = [
    "build_activation_block",
    "build_per_block",
    "build_per_group",
    "build_per_tensor",
    "build_per_token",
    "build_static",
]

_QMAX = 448.0
_FLOOR = 1 / (_QMAX * 512)  # min_scaling_factor
_FLOORS = (rounded(_FLOOR, torch.float32), rounded(1e-10, torch.float32))
_INT8 = dict(dtype=torch.int8, qmax=127.0, clamp=(-128.0, 127.0))


def build_per_token(call: OpMatcher, *, inside: bool = False) -> Match | None:
    """Per-token, bounded below, and above where ``scale_ub`` is given; ``inside``: behind the norm of the operator."""
    q, scale = call.find_nodes("result"), call.find_nodes("scale")
    if not q:
        return None
    (x,) = call.get_tensors("input")
    inputs = {"x": call.anchor if inside else x}
    fields = _take_bounds(call, inputs) | dict(use=ScaleUse.DIVIDE)
    if not inside:
        call.take_memory("result", "scale")
    return _make_match(call, q, scale, inputs, fields, dtype_of(x))


def build_per_tensor(call: OpMatcher) -> Match | None:
    """One scale for the tensor."""
    q, scale = call.find_nodes("result"), call.find_nodes("scale")
    if not q:
        return None
    (x,) = call.get_tensors("input")
    call.take_memory("result", "scale")
    fields = dict(granularity=Granularity.TENSOR, use=ScaleUse.MULTIPLY_RECIPROCAL)
    return _make_match(call, q, scale, {"x": x}, fields, dtype_of(x))


def build_static(call: OpMatcher, *, inside: bool = False, int8: bool = False) -> Match | None:
    """A scale that is given; ``inside``: behind the norm or the activation of the operator."""
    if not (q := call.find_nodes("result")):
        return None
    x, scale = call.get_tensors("input", "scale")
    if int8 and call.get_arguments("azp") != (None,):
        call.fail(
            call.anchor,
            RefusalKind.OPERATOR,
            "{name} is given a zero point with a given scale",
            "without one it can be read",
            name=call.name,
        )
    if shape_of(scale) not in ((), (1,), (1, 1)):
        call.fail(
            call.anchor,
            RefusalKind.SHAPE,
            "{name} is given scales of shape {shape}",
            "a single one can be read",
            name=call.name,
            shape=shape_of(scale),
        )
    call.take_memory("result")
    fields = dict(granularity=Granularity.TENSOR, dynamic=False, use=ScaleUse.MULTIPLY_RECIPROCAL)
    if int8:
        fields |= _INT8 | dict(use=ScaleUse.DIVIDE)
    return _make_match(call, q, (), {"x": call.anchor if inside else x, "scale": scale}, fields, dtype_of(x))


def build_per_group(call: OpMatcher) -> Match | None:
    """Per-group, its magnitude bounded below by ``eps``."""
    q, scale = call.find_nodes("output_q"), call.find_nodes("output_s")
    if not q:
        return None
    (x,) = call.get_tensors("input")
    group, eps, low, high, ue8m0 = call.get_arguments("group_size", "eps", "fp8_min", "fp8_max", "scale_ue8m0")
    if (low, high) != (-_QMAX, _QMAX):
        call.fail(
            call.anchor,
            RefusalKind.OPERATOR,
            "{name} clamps to {bounds}",
            "±{qmax} can be read",
            name=call.name,
            qmax=_QMAX,
            bounds=(low, high),
        )
    fields = dict(
        granularity=Granularity.GROUP,
        group=group,
        amax_floor=rounded(eps, torch.float32),
        use=ScaleUse.DIVIDE,
        scale_format=ScaleFormat.UE8M0 if ue8m0 else ScaleFormat.FP32,
        scale_layout=_find_layout(call, scale, x, group),
    )
    if ue8m0:  # vLLM bounds a scale by 1e-10 before it rounds it up to a power of two: by 2**-33 afterwards
        fields["scale_floor"] = 2.0**-33
    call.take_memory("output_q", "output_s")
    return _make_match(call, q, scale, {"x": x}, fields, dtype_of(x))


def build_per_block(call: OpMatcher) -> Match | None:
    """Per-group, behind the norm of the operator."""
    q, scale = call.find_nodes("result"), call.find_nodes("scale")
    if not q:
        return None
    (x,), (group,) = call.get_tensors("input"), call.get_arguments("group_size")
    inputs = {"x": call.anchor}
    fields = _take_bounds(call, inputs) | dict(
        granularity=Granularity.GROUP,
        group=group,
        use=ScaleUse.MULTIPLY_RECIPROCAL,
        scale_layout=_find_layout(call, scale, x, group),
    )
    return _make_match(call, q, scale, inputs, fields, dtype_of(x))


def build_activation_block(call: OpMatcher) -> Match | None:
    """Per-group, behind the activation of the operator, which divides fp32 values by their scale."""
    q, scale = call.find_nodes("out"), call.find_nodes("scales")
    if not q:
        return None
    (x,) = call.get_tensors("input")
    group, scale_ub = call.get_arguments("group_size", "scale_ub")
    if scale_ub is not None:
        call.fail(
            call.anchor,
            RefusalKind.OPERATOR,
            "{name} bounds its scales from above",
            "without such a bound it can be read",
            name=call.name,
        )
    floor = ask_scale_floor(call.op, x.meta["val"].device, dtype_of(x), group)
    if floor not in _FLOORS:
        call.fail(
            call.anchor,
            RefusalKind.OPERATOR,
            "{name} bounds its scales from below by 1e-10 in some versions of vLLM and by 1 / (448 * 512) in others, and "
            "asked on zeros it answers {floor}",
            "in front of vLLM's fusions, activation and quantiser fuse",
            name=call.name,
            floor="nothing" if floor is None else floor,
        )
    fields = dict(
        granularity=Granularity.GROUP,
        group=group,
        use=ScaleUse.DIVIDE,
        division=ScaleDivision.TENSOR,
        scale_floor=floor,
        scale_layout=_find_layout(call, scale, q[0], group),
    )
    return _make_match(call, q, scale, {"x": call.anchor}, fields, torch.float32)


def _take_bounds(call: OpMatcher, inputs: dict[str, Node]) -> dict[str, Any]:
    """The floor under every scale, and the bound above the magnitude where one is given."""
    (scale_ub,) = call.get_arguments("scale_ub")
    if scale_ub is not None:
        (inputs["scale_ub"],) = call.get_tensors("scale_ub")
    return dict(scale_floor=rounded(_FLOOR, torch.float32), scale_ub=scale_ub is not None)


def _find_layout(call: OpMatcher, scale: tuple[Node, ...], x: Node, group: int) -> ScaleLayout:
    """How the memory that the scales are written to is laid out."""
    if not scale:
        return ScaleLayout.ROW_MAJOR
    value = scale[0].meta["val"]
    *_, tokens, hidden = shape_of(x)
    if not same_shape(shape_of(scale[0]), (tokens, hidden // group)):
        call.fail(
            scale[0],
            RefusalKind.PATTERN,
            "shape {shape}",
            "scales [{tokens}, {expected}]",
            shape=shape_of(scale[0]),
            tokens=tokens,
            expected=hidden // group,
        )
    strides = {
        ScaleLayout.ROW_MAJOR: (hidden // group, 1),
        ScaleLayout.COLUMN_MAJOR: (1, tokens),
        ScaleLayout.TMA_ALIGNED: (1, -4 * (tokens // -4)),
    }
    for layout, stride in strides.items():
        if all(map(known_equal, value.stride(), stride)):
            return layout
    call.fail(
        scale[0],
        RefusalKind.SHAPE,
        "scales of strides {stride} are in no known layout",
        "row- and column-major ones can be read",
        stride=value.stride(),
    )


def _make_match(
    call: OpMatcher,
    q: tuple[Node, ...],
    scale: tuple[Node, ...],
    inputs: dict[str, Node],
    fields: dict[str, Any],
    x_dtype: torch.dtype,
) -> Match:
    fields = dict(dtype=torch.float8_e4m3fn, qmax=_QMAX, clamp=(-_QMAX, _QMAX)) | fields
    if (dtype := dtype_of(q[0])) != fields["dtype"]:
        call.fail(
            call.anchor,
            RefusalKind.DTYPE,
            "{name} gives {dtype}",
            "{known} can be read",
            name=call.name,
            dtype=dtype,
            known=fields["dtype"],
        )
    op = Quantize(x_dtype=x_dtype, scale_dtype=torch.float32, **fields)
    return call.match(op, inputs, {"q": q} | ({"scale": scale} if scale else {}))
