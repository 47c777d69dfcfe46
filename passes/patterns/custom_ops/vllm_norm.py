# SPDX-License-Identifier: Apache-2.0
"""RMSNorm as vLLM's graphs hold it: operators of its IR, or of its CUDA library under ``auto_functionalized``.

Before and after (x [..., K], weight [K] or None)::

    out = vllm_ir.rms_norm(x, weight, epsilon)                              Norm(x, weight) -> out
    out, sum = vllm_ir.fused_add_rms_norm(x, x_residual, weight, epsilon)   Norm(x, weight, residual) -> out, sum
    both = auto_functionalized(_C.fused_add_rms_norm, input=x, residual=residual, …); both[1], both[2]
                                                                            Norm(x, weight, residual) -> out, sum
    both = auto_functionalized(_C.rms_norm_static_fp8_quant, result=empty, input=x, scale=scale, …); both[1]
                                                                            Norm(x, weight) -> Quantize(scale) -> q

An operator that quantises too (``vllm_quantize``) is two matches: the normalised value is in no node, and the operator's
own stands for it.

Rounding is that of the native bodies in vLLM's ``ir/ops/layernorm.py`` and of ``csrc/layernorm_kernels.cu``: both round the
normalised value to the weight's dtype before the weight.  The IR takes the norm of the sum in fp32, the CUDA kernel that of
the rounded sum.  Of the operators that quantise, those that compute their scales take the sum in fp32, those with a scale
that is given the rounded sum (``csrc/layernorm_quant_kernels.cu``).
"""

from __future__ import annotations

import torch

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of, known_equal, rounded, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops.op_call import OpMatcher, Value
from helion_compile.passes.semantics import Norm, NormRounding

__all__ = ["build_norm"]


def build_norm(
    call: OpMatcher,
    *,
    x: str,
    out: Value,
    residual: str | None = None,
    sum: Value | None = None,
    unrounded_sum: bool = False,
    memory: str = "",
) -> Match | None:
    """The norm of an operator with ``weight`` and ``epsilon``.

    Args:
        x, residual: names of arguments; a residual may be None in a call.
        out, sum: where the results are.
        unrounded_sum: the norm is that of the sum in fp32.
        memory: arguments that the operator only writes to.
    """
    if call.arguments.get("variance_size") is not None:
        call.fail(
            call.anchor,
            RefusalKind.OPERATOR,
            "the mean is taken over a part of the row (variance_size)",
            "over the whole row it fuses",
        )
    call.take_memory(*memory.split())
    outputs = {"out": call.find_nodes(out), "sum": () if sum is None else call.find_nodes(sum)}
    if not outputs["out"]:
        return None
    (value,) = call.get_tensors(x)
    weight, eps = call.get_arguments("weight", "epsilon")
    if not isinstance(eps, (int, float)):
        call.fail(
            call.anchor,
            RefusalKind.CONSTANT,
            "eps is known at run time only, it is {eps}",
            "an eps that is a constant of the graph fuses",
            eps=eps,
        )
    inputs = {"x": value}
    if weight is not None:
        (inputs["weight"],) = call.get_tensors("weight")
        shape = shape_of(weight)
        if len(shape) != 1 or not known_equal(shape[0], shape_of(value)[-1]):
            call.fail(
                call.anchor,
                RefusalKind.SHAPE,
                "the weight, {weight}, has shape {shape}",
                "shape [{hidden}] fuses",
                weight=weight,
                shape=tuple(shape),
                hidden=shape_of(value)[-1],
            )
    with_residual = residual is not None and call.get_arguments(residual) != (None,)
    if residual is not None and with_residual:
        (inputs["residual"],) = call.get_tensors(residual)
    op = Norm(
        eps=rounded(float(eps), torch.float32),
        x_dtype=dtype_of(value),
        dtype=dtype_of(value),
        weight_dtype=None if weight is None else dtype_of(weight),
        rounding=_find_rounding(call, dtype_of(value), dtype_of(weight)),
        residual=with_residual,
        unrounded_sum=unrounded_sum and with_residual,
    )
    return call.match(op, inputs, {name: nodes for name, nodes in outputs.items() if nodes})


def _find_rounding(call: OpMatcher, x: torch.dtype, weight: torch.dtype | None) -> NormRounding:
    """Without a weight, or with one in fp32, nothing is rounded before the end."""
    if weight in (None, torch.float32):
        return NormRounding.SCALE_THEN_CAST
    if weight != x:
        call.fail(
            call.anchor,
            RefusalKind.DTYPE,
            "the weight is {weight} and x is {x}: rounded to the weight's dtype between",
            "one dtype fuses",
            weight=weight,
            x=x,
        )
    return NormRounding.CAST_THEN_SCALE
