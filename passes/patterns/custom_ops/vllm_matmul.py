# SPDX-License-Identifier: Apache-2.0
"""Scaled GEMMs as vLLM's graphs hold them: operators of its libraries, most of them under ``auto_functionalized``.

Before and after (a [M, K]; b [K, N] of CUTLASS, [N, K] of the others)::

    both = auto_functionalized(_C.cutlass_scaled_mm, out=empty, a=a, b=b, a_scales=…, b_scales=…, bias=bias); both[1]
                                   Matmul(a, b, a_scale [M, 1] or single, b_scale [N, 1] or single, bias) -> out
    _C.cutlass_scaled_mm_azp       the same of int8, and zero points: azp [M, 1], or all of it in azp_adj [1, N]
    vllm.int8_scaled_mm_func       Matmul(a, b, a_scale, b_scale, bias) -> out, int8
    vllm.fp8_gemm_nt_op, vllm.w8a8_triton_block_scaled_mm_func
                                   Matmul(a, b, a_scale, b_scale of blocks) -> out

CUTLASS applies the scale of ``b`` first, then that of ``a``, in fp32 (csrc, ``cutlass_extensions/epilogue``); Triton's int8
GEMM that of ``a`` first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of, known_equal, same_shape, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops.op_call import OpMatcher, Value
from helion_compile.passes.semantics import Granularity, Matmul

__all__ = ["build_block_scaled_mm", "build_cutlass_scaled_mm", "build_triton_scaled_mm"]

_OPERANDS = (torch.float8_e4m3fn, torch.int8)


def build_cutlass_scaled_mm(call: OpMatcher, *, zero_points: bool = False) -> Match | None:
    """vLLM's CUTLASS GEMMs, which write to ``out``."""
    out = call.find_nodes("out")
    if not out:
        return None
    a, b, a_scale, b_scale = call.get_tensors("a", "b", "a_scales", "b_scales")
    (bias,) = call.get_arguments("bias")
    _check_operands(call, a, b)
    kinds = _find_granularities(call, shape_of(a)[0], shape_of(b)[1], a_scale, b_scale)
    inputs = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale}
    if bias is not None:
        inputs["bias"] = bias
    if zero_points:
        (inputs["zero_sums"],) = call.get_tensors("azp_adj")
        (zero,) = call.get_arguments("azp")
        if zero is not None:
            inputs["zero"] = zero
    call.take_memory("out")
    op = Matmul(
        dtype=dtype_of(out[0]),
        operands=dtype_of(a),
        a_scales=kinds[0],
        b_scales=kinds[1],
        zero_points=zero_points,
        bias=bias is not None,
        # vLLM's CUTLASS kernels for fp8 are those with fast accumulation (csrc, c3x/scaled_mm_sm90_fp8_dispatch.cuh).
        fast_accum=dtype_of(a) != torch.int8,
        library="cutlass",
    )
    return call.match(op, inputs, {"out": out})


def build_triton_scaled_mm(call: OpMatcher) -> Match | None:
    """vLLM's GEMM in Triton, of int8."""
    if not (results := call.find_nodes(0)):
        return None
    a, b, a_scale, b_scale = call.get_tensors("qx", "weight", "x_scale", "weight_scale")
    (bias,) = call.get_arguments("bias")
    _check_operands(call, a, b)
    kinds = _find_granularities(call, shape_of(a)[0], shape_of(b)[1], a_scale, b_scale)
    inputs = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale} | ({} if bias is None else {"bias": bias})
    op = Matmul(
        dtype=dtype_of(results[0]),
        operands=dtype_of(a),
        a_scales=kinds[0],
        b_scales=kinds[1],
        a_scale_first=True,
        bias=bias is not None,
        library="triton",
    )
    return call.match(op, inputs, {"out": results})


def build_block_scaled_mm(call: OpMatcher, *, a: str, a_scale: str, b_scale: str, out: Value, library: str) -> Match | None:
    """A GEMM with scales of blocks and ``weight`` [N, K]; a ``str`` names an argument."""
    results = call.find_nodes(out)
    if not results:
        return None
    names = {"a": a, "b": "weight", "a_scale": a_scale, "b_scale": b_scale}
    inputs = dict(zip(names, call.get_tensors(*names.values()), strict=True))
    _check_operands(call, inputs["a"], inputs["b"])
    if isinstance(out, str):
        call.take_memory(out)
    op = Matmul(
        dtype=dtype_of(results[0]),
        operands=dtype_of(inputs["a"]),
        a_scales=Granularity.GROUP,
        b_scales=Granularity.GROUP,
        scale_dtype=dtype_of(inputs["a_scale"]),
        b_is_rows=True,
        library=library,
    )
    return call.match(op, inputs, {"out": results})


def _check_operands(call: OpMatcher, a: Node, b: Node) -> None:
    if dtype_of(a) not in _OPERANDS or dtype_of(a) != dtype_of(b):
        call.fail(
            call.anchor,
            RefusalKind.DTYPE,
            "the operands are {a_dtype} and {b_dtype}",
            "two of fp8 e4m3 or of int8 can be read",
            a_dtype=dtype_of(a),
            b_dtype=dtype_of(b),
        )


def _find_granularities(
    call: OpMatcher, rows: Any, columns: Any, a_scale: Node, b_scale: Node
) -> tuple[Granularity, Granularity]:
    """What shares a scale in [rows, K] and in [K, columns]: CUTLASS takes either kind for each, or blocks for both."""
    of_a, of_b = _find_granularity(a_scale, rows), _find_granularity(b_scale, columns)
    if of_a is None or of_b is None or (Granularity.GROUP in (of_a, of_b) and of_a is not of_b):
        call.fail(
            call.anchor,
            RefusalKind.SHAPE,
            "the scales have shapes {a_shape} and {b_shape}",
            "one per row ({rows}) and one per column ({columns}) or single ones fuse",
            a_shape=shape_of(a_scale),
            b_shape=shape_of(b_scale),
            rows=rows,
            columns=columns,
        )
    # The scale of one row is both.
    return (of_b if of_a is Granularity.TENSOR and known_equal(rows, 1) else of_a), of_b


def _find_granularity(scale: Node, count: Any) -> Granularity | None:
    shape = shape_of(scale)
    if all(known_equal(size, 1) for size in shape):
        return Granularity.TENSOR
    if any(same_shape(shape, one) for one in ((count, 1), (1, count), (count,))):
        return Granularity.TOKEN
    return Granularity.GROUP if len(shape) == 2 else None
