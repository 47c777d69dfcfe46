"""Activations as vLLM's graphs hold them: operators of its CUDA library under ``auto_functionalized``, or of its IR.

::

    _C.silu_and_mul(result!, input)                    input [..., 2 K]: gate, and up behind it; also vllm_ir.silu_and_mul(x)
    _C.gelu_and_mul(out!, input), _C.gelu_tanh_and_mul(out!, input)
    _C.relu_squared(out!, input)
    _C.silu_and_mul_quant(result!, input, scale)       quantised too, by a scale that is given (``vllm_quantize``)
    _C.silu_and_mul_per_block_quant(out!, input, scales!, group_size, scale_ub, is_scale_transposed)

Rounding is that of ``csrc/activation_kernels.cu``: f(gate) is computed in fp32 and rounded, then the product is.  In
``silu_and_mul_quant`` the product is in no node, and the operator's own stands for it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import dtype_of, known_equal, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops.op_call import name_of
from helion_compile.passes.patterns.custom_ops.vllm_schemas import VllmWalk
from helion_compile.passes.semantics import Activation, ActivationFunction, ActivationRounding

__all__ = ["ANCHORS", "FUSED", "NAME", "match_at"]

NAME = "activation"
FUSED = "_C.silu_and_mul_quant.default"
_BLOCKS = "_C.silu_and_mul_per_block_quant.default"
_IR = "vllm_ir.silu_and_mul.default"


class _Operator(NamedTuple):
    function: ActivationFunction
    out: str | None = None  # the argument that the result is written to
    x: str = "input"
    gated: bool = True


_OPERATORS = {
    "_C.silu_and_mul.default": _Operator(ActivationFunction.SILU, "result"),
    "_C.gelu_and_mul.default": _Operator(ActivationFunction.GELU, "out"),
    "_C.gelu_tanh_and_mul.default": _Operator(ActivationFunction.GELU_TANH, "out"),
    "_C.relu_squared.default": _Operator(ActivationFunction.RELU_SQUARED, "out", gated=False),
    FUSED: _Operator(ActivationFunction.SILU, "result"),
    _IR: _Operator(ActivationFunction.SILU, x="x"),
}
ANCHORS = frozenset({*_OPERATORS, _BLOCKS})


def match_at(anchor: Node) -> Match | None:
    """The activation that such an operator computes; None where nobody reads its result."""
    matcher = VllmWalk(anchor)
    name = name_of(anchor)
    if name == _BLOCKS:
        matcher.fail(
            anchor,
            f"{matcher.name} bounds its scales from below by 1e-10 in some versions of vLLM and by 1 / (448 * 512) in others, "
            "and its arguments do not say by which; in front of vLLM's fusions, activation and quantiser fuse",
        )
    operator = _OPERATORS[name]
    (x,) = matcher.tensors(operator.x)
    out = matcher.result(0) if operator.out is None else matcher.new(operator.out)
    if not out:
        return None
    if operator.out is not None:
        matcher.forget(operator.out)
    if operator.gated and not known_equal(shape_of(x)[-1], 2 * shape_of(out[0])[-1]):
        matcher.fail(
            anchor,
            f"{operator.x} is {list(shape_of(x))} and the result {list(shape_of(out[0]))}; half the length fuses",
        )
    dtype = dtype_of(x)
    stepwise = operator.gated and dtype != torch.float32
    op = Activation(
        function=operator.function,
        gated=operator.gated,
        joined=operator.gated,
        x_dtype=dtype,
        dtype=dtype,
        rounding=ActivationRounding.FUNCTION if stepwise else ActivationRounding.RESULT,
    )
    return matcher.match(op, {"x": x}, {"out": (anchor,) if name == FUSED else out})
