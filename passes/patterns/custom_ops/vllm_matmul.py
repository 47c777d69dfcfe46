"""Scaled products as vLLM's graphs hold them: operators of its libraries, most of them under ``auto_functionalized``.

::

    _C.cutlass_scaled_mm(out!, a, b, a_scales, b_scales, bias)       a [M, K], b [K, N]; scales [M, 1] and [N, 1], or single
    _C.cutlass_scaled_mm_azp(out!, …, azp_adj, azp, bias)            int8 with zero points: azp [M, 1], or in azp_adj [1, N]
    vllm.fp8_gemm_nt_op(q_input, input_scale, weight, weight_scale, output!, …)      weight [N, K], scales of blocks
    vllm.w8a8_triton_block_scaled_mm_func(qx, weight, x_scale, weight_scale, …)      the same, its result returned
    vllm.bmm_fp8(A, B, A_scale, B_scale, …)                          batches of matrices

CUTLASS applies the scale of ``b`` first, then that of ``a``, in fp32 (csrc, ``cutlass_extensions/epilogue``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import dtype_name, dtype_of, known_equal, same_shape, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops.op_call import name_of
from helion_compile.passes.patterns.custom_ops.vllm_schemas import VllmWalk
from helion_compile.passes.semantics import Granularity, Matmul

__all__ = ["ANCHORS", "NAME", "match_at"]

NAME = "matmul"


class _Operator(NamedTuple):
    """Names of an operator's arguments."""

    a: str
    b: str
    a_scale: str
    b_scale: str
    out: str | None = None  # written to; else the result is returned
    cutlass: bool = False
    zero_points: bool = False


_CUTLASS = _Operator("a", "b", "a_scales", "b_scales", "out", cutlass=True)
_OPERATORS = {
    "_C.cutlass_scaled_mm.default": _CUTLASS,
    "_C.cutlass_scaled_mm_azp.default": _CUTLASS._replace(zero_points=True),
    "vllm.fp8_gemm_nt_op.default": _Operator("q_input", "weight", "input_scale", "weight_scale", "output"),
    "vllm.w8a8_triton_block_scaled_mm_func.default": _Operator("qx", "weight", "x_scale", "weight_scale"),
}
_BATCHES = "vllm.bmm_fp8.default"
ANCHORS = frozenset({*_OPERATORS, _BATCHES})
_OPERANDS = (torch.float8_e4m3fn, torch.int8)


def match_at(anchor: Node) -> Match | None:
    """The product that such an operator computes; None where nobody reads it."""
    matcher = VllmWalk(anchor)
    if name_of(anchor) == _BATCHES:
        matcher.fail(anchor, f"{matcher.name} multiplies batches of matrices; a product of two matrices can be read")
    operator = _OPERATORS[name_of(anchor)]
    out = matcher.result(0) if operator.out is None else matcher.new(operator.out)
    if not out:
        return None
    a, b, a_scale, b_scale = matcher.tensors(operator.a, operator.b, operator.a_scale, operator.b_scale)
    (bias,) = matcher.get("bias") if operator.cutlass else (None,)
    if dtype_of(a) not in _OPERANDS or dtype_of(a) != dtype_of(b):
        found = f"{dtype_name(dtype_of(a))} and {dtype_name(dtype_of(b))}"
        matcher.fail(anchor, f"the operands are {found}; two of fp8 e4m3 or of int8 can be read")
    inputs = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale, "bias": bias}
    kinds = Granularity.GROUP, Granularity.GROUP
    if operator.cutlass:
        kinds = _kinds(matcher, shape_of(a)[0], shape_of(b)[1], a_scale, b_scale)
    if operator.zero_points:
        (inputs["zero_sums"],) = matcher.tensors("azp_adj")
        (inputs["zero"],) = matcher.get("azp")
    if operator.out is not None:
        matcher.forget(operator.out)
    op = Matmul(
        dtype=dtype_of(out[0]),
        operands=dtype_of(a),
        a_scales=kinds[0],
        b_scales=kinds[1],
        b_is_rows=not operator.cutlass,
        zero_points=operator.zero_points,
        bias=bias is not None,
        # vLLM's CUTLASS kernels for fp8 are those with fast accumulation (csrc, c3x/scaled_mm_sm90_fp8_dispatch.cuh).
        fast_accum=operator.cutlass and dtype_of(a) != torch.int8,
        library="cutlass" if operator.cutlass else "torch",
    )
    return matcher.match(op, {name: node for name, node in inputs.items() if node is not None}, {"out": out})


def _kinds(matcher: VllmWalk, rows: Any, columns: Any, a_scale: Node, b_scale: Node) -> tuple[Granularity, Granularity]:
    """What shares a scale in [rows, K] and in [K, columns]: CUTLASS takes either kind for each, or blocks for both."""
    kinds = _kind(a_scale, rows), _kind(b_scale, columns)
    if None in kinds or (Granularity.GROUP in kinds and kinds[0] is not kinds[1]):
        found = f"{list(shape_of(a_scale))} and {list(shape_of(b_scale))}"
        matcher.fail(
            matcher.anchor,
            f"found scales of shapes {found}; one a row ({rows}) and one a column ({columns}) or single ones fuse",
        )
    # The scale of one row is both.
    return (kinds[1], kinds[1]) if kinds[0] is Granularity.TENSOR and known_equal(rows, 1) else kinds


def _kind(scale: Node, count: Any) -> Granularity | None:
    shape = shape_of(scale)
    if all(known_equal(size, 1) for size in shape):
        return Granularity.TENSOR
    if any(same_shape(shape, one) for one in ((count, 1), (1, count), (count,))):
        return Granularity.TOKEN
    return Granularity.GROUP if len(shape) == 2 else None
