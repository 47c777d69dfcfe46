"""Scaled products of other libraries, known by the name of the operator and of its arguments.

A row of ``_OPERATORS`` is all that another library's product needs: no import, nothing registered.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from helion_compile.passes.ir.values import dtype_name, dtype_of, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.aten.matmul import granularity
from helion_compile.passes.patterns.custom_ops.op_call import OpaqueWalk, name_of
from helion_compile.passes.semantics import Granularity, Matmul

__all__ = ["ANCHORS", "NAME", "match_at"]

NAME = "matmul"


@dataclass(frozen=True)
class _Operator:
    """Names of an operator's arguments; ``b`` is [N, K], as the weights of these libraries lie in memory."""

    a: str
    b: str
    a_scale: str
    b_scale: str
    bias: str | None = None
    fast_accum: str | None = None
    block: bool = False  # scales of blocks, whatever their shapes


_ROWWISE = _Operator("XQ", "WQ", "x_scale", "w_scale", "bias", "use_fast_accum")
_OPERATORS = {
    "mslk.f8f8bf16_rowwise.default": _ROWWISE,
    "fbgemm.f8f8bf16_rowwise.default": _ROWWISE,
    "fbgemm.f8f8bf16_blockwise.default": _Operator("XQ", "WQ", "x_scale", "w_scale", block=True),
    "ao.blockwise_fp8_gemm.default": _Operator("a", "b", "a_s", "b_s", block=True),
}
ANCHORS = frozenset(_OPERATORS)


def match_at(anchor: Node) -> Match | None:
    """The product that such an operator computes; None without fake values to tell the shapes from."""
    if shape_of(anchor) is None:
        return None
    matcher = OpaqueWalk(anchor)
    operator = _OPERATORS[name_of(anchor)]
    a, b, a_scale, b_scale = matcher.tensors(operator.a, operator.b, operator.a_scale, operator.b_scale)
    (bias,) = matcher.get(operator.bias) if operator.bias else (None,)
    (fast_accum,) = matcher.get(operator.fast_accum) if operator.fast_accum else (False,)
    if dtype_of(a) != dtype_of(b):
        found = f"{dtype_name(dtype_of(a))} and {dtype_name(dtype_of(b))}"
        matcher.fail(anchor, f"the operands are {found}; two of one dtype fuse")
    rows, columns = shape_of(a)[0], shape_of(b)[0]
    kind = Granularity.GROUP if operator.block else granularity(matcher, rows, columns, a_scale, b_scale)
    op = Matmul(
        dtype=dtype_of(anchor),
        operands=dtype_of(a),
        a_scales=kind,
        b_scales=kind,
        scale_dtype=dtype_of(a_scale),
        b_is_rows=True,
        bias=bias is not None,
        fast_accum=bool(fast_accum),
    )
    inputs = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale, "bias": bias}
    return matcher.match(op, {name: node for name, node in inputs.items() if node is not None}, {"out": anchor})
