# SPDX-License-Identifier: Apache-2.0
"""Activations as vLLM's graphs hold them: operators of its CUDA library under ``auto_functionalized``.

Before and after (input [..., 2 K] of a gated one: the gate, and up behind it)::

    both = auto_functionalized(_C.silu_and_mul, result=empty, input=x); both[1]        Activation(x) -> out
    both = auto_functionalized(_C.relu_squared, out=empty, input=x); both[1]           Activation(x) -> out, not gated
    both = auto_functionalized(_C.silu_and_mul_quant, result=empty, input=x, scale=scale); both[1]
                                                                                       Activation(x) -> Quantize(scale) -> q

    _C.silu_and_mul_per_block_quant                    Activation(x) -> fp32 -> Quantize(groups) -> q, scale

Rounding is that of ``csrc/activation_kernels.cu``: f(gate) is computed in fp32 and rounded, then the product is.  In
``silu_and_mul_quant`` the product is in no node, and the operator's own stands for it.
"""

from __future__ import annotations

import torch

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of, known_equal, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops.op_call import INSIDE, OpMatcher
from helion_compile.passes.semantics import Activation, ActivationFunction, ActivationRounding

__all__ = ["build_activation"]


def build_activation(
    call: OpMatcher,
    *,
    function: ActivationFunction,
    written: str,
    gated: bool = True,
    inside: bool = False,
    unrounded: bool = False,
    memory: str = "",
) -> Match | None:
    """The activation of ``input``, written to an argument.

    ``inside``: what is written is quantised behind it.  ``unrounded``: from fp32, not rounded before.  ``memory``: what else
    is written to.
    """
    (x,) = call.get_tensors("input")
    results = call.find_nodes(written)
    if not results:
        return None
    call.take_memory(written, *memory.split())
    if gated and not known_equal(shape_of(x)[-1], 2 * shape_of(results[0])[-1]):
        call.fail(
            call.anchor,
            RefusalKind.SHAPE,
            "input is {x_shape} and the result {out_shape}",
            "half the length fuses",
            x_shape=shape_of(x),
            out_shape=shape_of(results[0]),
        )
    dtype = dtype_of(x)
    stepwise = gated and dtype != torch.float32
    op = Activation(
        function=function,
        gated=gated,
        joined=gated,
        x_dtype=dtype,
        dtype=torch.float32 if unrounded else dtype,
        rounding=ActivationRounding.FUNCTION if stepwise and not unrounded else ActivationRounding.RESULT,
    )
    return call.match(op, {"x": x}, {"out": call.find_nodes(INSIDE) if inside else results})
