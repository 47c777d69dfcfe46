# SPDX-License-Identifier: Apache-2.0
"""Scaled GEMMs of MSLK, FBGEMM and torchao.

Before and after (XQ [M, K]; WQ [N, K], as the weights of these libraries lie in memory)::

    out = mslk.f8f8bf16_rowwise(XQ, WQ, x_scale, w_scale, bias, use_fast_accum)   Matmul(XQ, WQ, x_scale, w_scale, bias) -> out
    out = ao.blockwise_fp8_gemm(a, b, a_s, b_s)                                   Matmul(a, b, a_s, b_s of blocks) -> out
"""

from __future__ import annotations

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.aten.matmul import granularity
from helion_compile.passes.patterns.custom_ops.op_call import OpMatcher
from helion_compile.passes.semantics import Granularity, Matmul

__all__ = ["build_scaled_mm"]


def build_scaled_mm(
    call: OpMatcher,
    *,
    a: str,
    b: str,
    a_scale: str,
    b_scale: str,
    bias: str | None = None,
    fast_accum: str | None = None,
    block: bool = False,
    library: str = "torch",
) -> Match | None:
    """A GEMM whose arguments have these names; None without fake values to tell the shapes from.

    ``block``: the scales are those of blocks, whatever their shapes.
    """
    if shape_of(call.anchor) is None:
        return None
    inputs = dict(zip(("a", "b", "a_scale", "b_scale"), call.get_tensors(a, b, a_scale, b_scale), strict=True))
    bias_node = call.get_arguments(bias)[0] if bias else None
    dtypes = dtype_of(inputs["a"]), dtype_of(inputs["b"])
    if dtypes[0] != dtypes[1]:
        call.fail(
            call.anchor, RefusalKind.DTYPE, "the operands are {a} and {b}", "two of one dtype fuse", a=dtypes[0], b=dtypes[1]
        )
    kind = Granularity.GROUP
    if not block:
        rows, columns = shape_of(inputs["a"])[0], shape_of(inputs["b"])[0]
        kind = granularity(call, rows, columns, inputs["a_scale"], inputs["b_scale"])
    op = Matmul(
        dtype=dtype_of(call.anchor),
        operands=dtypes[0],
        a_scales=kind,
        b_scales=kind,
        scale_dtype=dtype_of(inputs["a_scale"]),
        b_is_rows=True,
        bias=bias_node is not None,
        fast_accum=bool(call.get_arguments(fast_accum)[0]) if fast_accum else False,
        library=library,
    )
    if bias_node is not None:
        inputs["bias"] = bias_node
    return call.match(op, inputs, {"out": call.anchor})
