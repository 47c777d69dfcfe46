# SPDX-License-Identifier: Apache-2.0
"""torch's own norm operations, where a graph keeps them: Inductor takes most of them apart before the pass sees them.

::

    aten._fused_rms_norm(x, [K], weight, eps) → getitem 0              RMSNorm
    aten.native_layer_norm(x, [K], weight, bias, eps) → getitem 0      LayerNorm

Gives a ``Norm`` with SCALE_THEN_CAST.
"""

from __future__ import annotations

import operator

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import dtype_of, known_equal, rounded, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.matcher import Matcher
from helion_compile.passes.semantics import Norm, NormKind, NormRounding

__all__ = ["OPERATIONS", "match_at"]

aten = torch.ops.aten

_KINDS = {aten._fused_rms_norm.default: NormKind.RMS, aten.native_layer_norm.default: NormKind.LAYER}
OPERATIONS = frozenset(_KINDS)


def match_at(anchor: Node) -> Match | None:
    """The norm that a library operation computes; its statistics may not be read."""
    matcher = Matcher(anchor)
    names = [argument.name for argument in anchor.target._schema.arguments]
    given = dict(zip(names, anchor.args, strict=False)) | anchor.kwargs
    x, shape = given["input"], given["normalized_shape"]
    if not shape_of(x):
        return None
    if len(shape) != 1 or not known_equal(shape[0], shape_of(x)[-1]):
        matcher.fail(
            anchor,
            RefusalKind.PATTERN,
            "{anchor} over {shape}",
            "a norm over the last dimension",
            anchor=anchor,
            shape=tuple(shape),
        )
    outputs = [user for user in anchor.users if user.target is operator.getitem and user.args[1] == 0]
    for user in anchor.users:
        if user in outputs:
            continue
        if matcher.take(user).users:
            matcher.fail(
                user,
                RefusalKind.READER,
                "{user} reads the statistics of {anchor}",
                "without that reader it fuses",
                user=user,
                anchor=anchor,
            )
    if not outputs:
        return None
    eps = given.get("eps")
    if eps is not None and not isinstance(eps, float):
        matcher.fail(
            anchor,
            RefusalKind.CONSTANT,
            "eps is known at run time only, it is {eps}",
            "an eps that is a constant fuses",
            eps=eps,
        )
    weight, bias = given.get("weight"), given.get("bias")
    op = Norm(
        kind=_KINDS[anchor.target],
        eps=rounded(torch.finfo(torch.float32).eps if eps is None else eps, torch.float32),
        x_dtype=dtype_of(x),
        dtype=dtype_of(outputs[0]),
        weight_dtype=dtype_of(weight),
        bias_dtype=dtype_of(bias),
        rounding=NormRounding.SCALE_THEN_CAST,
    )
    inputs = {"x": x, "weight": weight, "bias": bias}
    return matcher.match(op, {name: node for name, node in inputs.items() if node is not None}, {"out": tuple(outputs)})
