"""RMSNorm as vLLM's graphs hold it: operators of its IR, or of its CUDA library under ``auto_functionalized``.

::

    vllm_ir.rms_norm(x, weight, epsilon)                        x [..., K], weight [K] or None
    vllm_ir.fused_add_rms_norm(x, x_residual, weight, epsilon)  -> out, x + x_residual
    _C.rms_norm(result!, input, weight, epsilon)
    _C.fused_add_rms_norm(input!, residual!, weight, epsilon)   -> out in input, input + residual in residual
    _C.rms_norm_dynamic_per_token_quant(result!, input, weight, scale!, epsilon, scale_ub, residual!)
    _C.rms_norm_per_block_quant(result!, input, weight, scale!, epsilon, scale_ub, residual!, …)
    _C.rms_norm_static_fp8_quant(result!, input, weight, scale, epsilon)
    _C.fused_add_rms_norm_static_fp8_quant(result!, input, residual!, weight, scale, epsilon)

Rounding is that of the native bodies in vLLM's ``ir/ops/layernorm.py`` and of ``csrc/layernorm_kernels.cu``: both round the
normalised value to the weight's dtype before the weight; the IR takes the norm of the sum in fp32, the CUDA kernel that
of the rounded sum.  The last four quantise the norm too (``vllm_quantize``); the normalised value is in no node, and the
operator's own stands for it.  Those with scales that they compute take the sum in fp32, those with one that is given the
rounded sum (``csrc/layernorm_quant_kernels.cu``).
"""

from __future__ import annotations

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import describe, dtype_of, known_equal, rounded, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops.op_call import name_of
from helion_compile.passes.patterns.custom_ops.vllm_schemas import VllmWalk
from helion_compile.passes.semantics import Norm, NormRounding

__all__ = ["ANCHORS", "FUSED", "FUSED_STATIC", "NAME", "match_at"]

NAME = "norm"
_STATIC_SUM = "_C.fused_add_rms_norm_static_fp8_quant.default"
FUSED_STATIC = frozenset({"_C.rms_norm_static_fp8_quant.default", _STATIC_SUM})
FUSED = frozenset({"_C.rms_norm_dynamic_per_token_quant.default", "_C.rms_norm_per_block_quant.default"})
ANCHORS = (
    FUSED
    | FUSED_STATIC
    | {
        "vllm_ir.rms_norm.default",
        "vllm_ir.fused_add_rms_norm.default",
        "_C.rms_norm.default",
        "_C.fused_add_rms_norm.default",
    }
)


def match_at(anchor: Node) -> Match | None:
    """The norm that such an operator computes; None where nobody reads its result."""
    matcher = VllmWalk(anchor)
    name = name_of(anchor)
    if name.startswith("vllm_ir."):
        if matcher.arguments.get("variance_size") is not None:
            matcher.fail(anchor, "the mean is taken over a part of the row (variance_size); over the whole row it fuses")
        residual = "x_residual" if "fused_add" in name else None
        outputs = {"out": matcher.result(0), "sum": matcher.result(1) if residual else ()}
        return norm(matcher, "x", residual, outputs, unrounded_sum=True)
    if name in FUSED:
        matcher.forget("result", "scale")
        return norm(matcher, "input", "residual", {"out": (anchor,), "sum": matcher.new("residual")}, unrounded_sum=True)
    if name in FUSED_STATIC:
        matcher.forget("result")
        residual = "residual" if name == _STATIC_SUM else None
        total = matcher.new("residual") if residual else ()
        return norm(matcher, "input", residual, {"out": (anchor,), "sum": total}, unrounded_sum=False)
    if "fused_add" in name:
        return norm(
            matcher, "input", "residual", {"out": matcher.new("input"), "sum": matcher.new("residual")}, unrounded_sum=False
        )
    matcher.forget("result")
    return norm(matcher, "input", None, {"out": matcher.new("result"), "sum": ()}, unrounded_sum=False)


def norm(
    matcher: VllmWalk, x_name: str, residual_name: str | None, outputs: dict[str, tuple[Node, ...]], *, unrounded_sum: bool
) -> Match | None:
    """The region of an operator with ``weight`` and ``epsilon``; ``outputs`` are "out" and "sum"."""
    if not outputs["out"]:
        return None
    (x,) = matcher.tensors(x_name)
    weight, eps = matcher.get("weight", "epsilon")
    if not isinstance(eps, (int, float)):
        matcher.fail(
            matcher.anchor, f"eps is known at run time only, it is {eps!r}; an eps that is a constant of the graph fuses"
        )
    inputs = {"x": x}
    if weight is not None:
        (inputs["weight"],) = matcher.tensors("weight")
        shape = shape_of(weight)
        if len(shape) != 1 or not known_equal(shape[0], shape_of(x)[-1]):
            matcher.fail(
                matcher.anchor,
                f"the weight, {describe(weight)}, has shape {list(shape)}; shape [{shape_of(x)[-1]}] fuses",
            )
    residual = None if residual_name is None else matcher.get(residual_name)[0]
    if residual is not None:
        (inputs["residual"],) = matcher.tensors(residual_name)
    op = Norm(
        eps=rounded(float(eps), torch.float32),
        x_dtype=dtype_of(x),
        dtype=dtype_of(x),
        weight_dtype=None if weight is None else dtype_of(weight),
        rounding=_rounding(matcher, dtype_of(x), dtype_of(weight)),
        residual=residual is not None,
        unrounded_sum=unrounded_sum and residual is not None,
    )
    return matcher.match(op, inputs, {name: nodes for name, nodes in outputs.items() if nodes})


def _rounding(matcher: VllmWalk, x: torch.dtype, weight: torch.dtype | None) -> NormRounding:
    """Without a weight, or with one in fp32, nothing is rounded before the end."""
    if weight in (None, torch.float32):
        return NormRounding.SCALE_THEN_CAST
    if weight != x:
        matcher.fail(
            matcher.anchor, f"the weight is {weight} and x is {x}: rounded to the weight's dtype between; one dtype fuses"
        )
    return NormRounding.CAST_THEN_SCALE
