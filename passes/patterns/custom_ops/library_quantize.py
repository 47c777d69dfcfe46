# SPDX-License-Identifier: Apache-2.0
"""Quantisation by operators of MSLK and FBGEMM.

Before and after (a, input [..., K])::

    q, scale = triton.quantize_fp8_row(a, scale_ub)               Quantize(a) -> q, scale; what torchao calls with MSLK
    q, scale = fbgemm.quantize_fp8_per_row(input, bs, scale_ub)   the same in CUDA: transformers' FbgemmFp8Linear; mslk's too

Both take q [..., K] and fp32 scales [...] of ``amax`` in fp32; the first multiplies by 448 / amax, the second divides by the
scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops.op_call import OpMatcher
from helion_compile.passes.semantics import Quantize

__all__ = ["build_row_quantizer"]

_E4M3 = torch.float8_e4m3fn


def build_row_quantizer(call: OpMatcher, *, x: str, fields: Mapping[str, Any], fixed: Mapping[str, Any]) -> Match | None:
    """A per-token quantiser to fp8.

    Args:
        x: the argument's name.
        fields: of the semantic op.
        fixed: values that arguments must have, in versions that have them.
    """
    q, scale = call.find_nodes(0), call.find_nodes(1)
    if not q:
        return None
    (value,) = call.get_tensors(x)
    for name, wanted in fixed.items():
        if name in call.arguments and call.arguments[name] != wanted:
            call.fail(
                call.anchor,
                RefusalKind.OPERATOR,
                "{name} is given {argument}={given}",
                "with {argument}={value} it can be read",
                name=call.name,
                argument=name,
                given=str(call.arguments[name]),
                value=wanted,
            )
    if dtype_of(q[0]) != _E4M3:
        call.fail(
            call.anchor,
            RefusalKind.DTYPE,
            "{name} gives {q_dtype}",
            "{known} can be read",
            name=call.name,
            q_dtype=dtype_of(q[0]),
            known=_E4M3,
        )
    inputs = {"x": value}
    (scale_ub,) = call.get_arguments("scale_ub")
    if scale_ub is not None:
        (inputs["scale_ub"],) = call.get_tensors("scale_ub")
    op = Quantize(
        x_dtype=dtype_of(value),
        dtype=_E4M3,
        qmax=448.0,
        scale_dtype=torch.float32,
        scale_ub=scale_ub is not None,
        clamp=(-448.0, 448.0),
        **fields,
    )
    return call.match(op, inputs, {"q": q} | ({"scale": scale} if scale else {}))
