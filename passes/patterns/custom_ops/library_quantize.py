"""Quantisation by operators of other libraries, known by the name of the operator and of its arguments.

::

    q, scale = triton.quantize_fp8_row(a, scale_ub)               MSLK and FBGEMM: what torchao calls where it finds MSLK
    q, scale = fbgemm.quantize_fp8_per_row(input, bs, scale_ub)   the same in CUDA: transformers' FbgemmFp8Linear; mslk's too

Both take q [..., K] and fp32 scales [...] of ``amax`` in fp32; the first multiplies by 448 / amax, the second divides by the
scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import dtype_name, dtype_of, rounded
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops.op_call import OpaqueWalk, name_of
from helion_compile.passes.semantics import Quantize, ScaleDivision, ScaleUse

__all__ = ["ANCHORS", "NAME", "match_at"]

NAME = "quantize"
_E4M3 = torch.float8_e4m3fn


@dataclass(frozen=True)
class _Operator:
    x: str  # the argument's name
    facts: dict[str, Any]  # of the meaning
    plain: dict[str, Any]  # arguments that have these values, in versions that have them


_TRITON = _Operator(
    "a",
    dict(use=ScaleUse.MULTIPLY_QUOTIENT, amax_floor=rounded(1e-12, torch.float32)),
    dict(zero_start_index_M=None, use_triton=True, output_device=None, align_rows_to=None),
)
_CUDA = _Operator(
    "input",
    dict(use=ScaleUse.DIVIDE, division=ScaleDivision.TENSOR, scale_floor=rounded(1 / (448 * 512), torch.float32)),
    dict(bs=None, stochastic_rounding=False),
)
_OPERATORS = {
    "triton.quantize_fp8_row.default": _TRITON,
    "fbgemm.quantize_fp8_per_row.default": _CUDA,
    "mslk.quantize_fp8_per_row.default": _CUDA,
}
ANCHORS = frozenset(_OPERATORS)


def match_at(anchor: Node) -> Match | None:
    """The quantisation that such an operator computes; None where nobody reads its result."""
    matcher = OpaqueWalk(anchor)
    operator = _OPERATORS[name_of(anchor)]
    q, scale = matcher.result(0), matcher.result(1)
    if not q:
        return None
    (x,) = matcher.tensors(operator.x)
    for name, value in operator.plain.items():
        if name in matcher.arguments and matcher.arguments[name] != value:
            found = f"{matcher.name} is given {name}={matcher.arguments[name]}"
            matcher.fail(anchor, f"{found}; with {name}={value} it can be read")
    if dtype_of(q[0]) != _E4M3:
        matcher.fail(anchor, f"{matcher.name} gives {dtype_name(dtype_of(q[0]))}; {dtype_name(_E4M3)} can be read")
    inputs = {"x": x}
    (scale_ub,) = matcher.get("scale_ub")
    if scale_ub is not None:
        (inputs["scale_ub"],) = matcher.tensors("scale_ub")
    op = Quantize(
        x_dtype=dtype_of(x),
        dtype=_E4M3,
        qmax=448.0,
        scale_dtype=torch.float32,
        scale_ub=scale_ub is not None,
        clamp=(-448.0, 448.0),
        **operator.facts,
    )
    return matcher.match(op, inputs, {"q": q} | ({"scale": scale} if scale else {}))
