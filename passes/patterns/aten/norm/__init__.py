# SPDX-License-Identifier: Apache-2.0
"""Norms over the last dimension, as models and torch's own modules write them.

::

    x32 = x.float()                                              x [..., K]
    rstd = rsqrt(mean(x32 * x32, dim=-1, keepdim=True) + eps)    fp32 [..., 1]    <- anchor
    out = weight * (x32 * rstd).to(x.dtype) [+ bias]             cast then scale
    out = (weight * (x32 * rstd) [+ bias]).to(dtype)             scale then cast
    out = (x32 * rstd).to(dtype)                                 without weight

As a graph, RMSNorm is ``x → pow → mean → add(eps) → rsqrt → mul → cast → mul(weight)``.  Each gives a ``Norm``.

``statistic`` matches what stands under the root, ``root`` how it divides, ``affine`` what follows, ``residual`` an addition
in front, ``library`` torch's own operations where a graph keeps them.
"""

from __future__ import annotations

from torch.fx import Node

from helion_compile.passes.ir.values import dtype_of, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.aten.norm import library
from helion_compile.passes.patterns.aten.norm.affine import match_affine
from helion_compile.passes.patterns.aten.norm.residual import unrounded_sum, with_residual
from helion_compile.passes.patterns.aten.norm.root import ROOTS, is_root, match_root
from helion_compile.passes.patterns.aten.norm.statistic import match_statistic
from helion_compile.passes.patterns.matcher import Matcher
from helion_compile.passes.semantics import Norm

__all__ = ["ANCHORS", "NAME", "match_at", "with_residual"]

NAME = "norm"
ANCHORS = ROOTS | library.OPERATIONS


def match_at(anchor: Node) -> Match | None:
    """The norm around a root or a library call; None when there is no mean under the root, which so belongs to no norm."""
    if anchor.target in library.OPERATIONS:
        return library.match_at(anchor)
    matcher = Matcher(anchor)
    statistic = match_statistic(matcher) if shape_of(anchor) and is_root(anchor) else None
    if statistic is None:
        return None
    total = unrounded_sum(matcher, statistic.x)
    x = total.sum if total else statistic.x
    normalised, root, factor_dtype = match_root(matcher, statistic)
    affine = match_affine(matcher, normalised, x)
    inputs = {"x": total.x, "residual": total.residual} if total else {"x": x}
    inputs |= {name: node for name, node in (("weight", affine.weight), ("bias", affine.bias)) if node is not None}
    op = Norm(
        kind=statistic.kind,
        root=root,
        eps=statistic.eps,
        factor_dtype=factor_dtype,
        x_dtype=dtype_of(x),
        dtype=dtype_of(affine.out[0]),
        weight_dtype=dtype_of(affine.weight),
        weight_offset=affine.weight_offset,
        bias_dtype=dtype_of(affine.bias),
        rounding=affine.rounding,
        residual=bool(total),
        unrounded_sum=bool(total),
    )
    return matcher.match(op, inputs, {"out": affine.out, **({"sum": total.sums} if total else {})})
