# SPDX-License-Identifier: Apache-2.0
"""How a norm divides by its root.

::

    mean + eps → rsqrt → [cast] → mul(x)                       RSQRT; also pow(-0.5)
    mean + eps → sqrt → div(x, ·)                              SQRT; also pow(0.5)
    mean + eps → sqrt → reciprocal [→ mul(1)] → mul(x)         RECIPROCAL_SQRT

Gives ``root`` and ``factor_dtype`` of a ``Norm``.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import cast_dtype, dtype_of, unshaped
from helion_compile.passes.patterns.aten.norm.statistic import Statistic
from helion_compile.passes.patterns.matcher import DIV, MUL, RECIPROCAL, Matcher
from helion_compile.passes.semantics import NormRoot

__all__ = ["ROOTS", "match_root", "is_root"]

aten = torch.ops.aten

ROOTS = frozenset({aten.rsqrt.default, aten.sqrt.default, aten.pow.Tensor_Scalar})


def is_root(anchor: Node) -> bool:
    """Whether a node takes a square root: rsqrt and sqrt, and the powers -0.5 and 0.5, for which eager calls these."""
    return anchor.target is not aten.pow.Tensor_Scalar or anchor.args[1] in (0.5, -0.5)


def match_root(matcher: Matcher, statistic: Statistic) -> tuple[Node, NormRoot, torch.dtype]:
    """The normalised value, how the root divided, and the dtype that the factor or divisor was rounded to."""
    anchor = matcher.anchor
    inverse = anchor.target is aten.rsqrt.default or (anchor.target is aten.pow.Tensor_Scalar and anchor.args[1] < 0)
    kind = NormRoot.RSQRT if inverse else NormRoot.SQRT
    pending = [(anchor, kind, torch.float32)]
    seen: dict[Node, None] = {}
    while pending:
        factor, kind, dtype = pending.pop(0)
        for reader in matcher.readers(factor):
            seen[reader] = None
            if found := _applied(matcher, statistic, factor, reader, kind):
                matcher.take(factor)
                return found, kind, dtype
            if kind is NormRoot.SQRT and reader.target in RECIPROCAL:
                pending.append((_step(matcher, reader), NormRoot.RECIPROCAL_SQRT, dtype))
            elif reader.target in MUL and _by_one(matcher, reader):
                pending.append((_step(matcher, reader), kind, dtype))
            elif cast_dtype(reader) in (torch.bfloat16, torch.float16) and dtype == torch.float32:
                pending.append((_step(matcher, reader), kind, cast_dtype(reader)))
    wanted = "x * rsqrt(…)" if inverse else "x / sqrt(…)"
    matcher.fail(
        anchor,
        RefusalKind.PATTERN,
        "{readers}",
        "{wanted} in fp32, with the x whose mean was taken",
        readers=list(seen),
        wanted=wanted,
    )


def _applied(matcher: Matcher, statistic: Statistic, factor: Node, product: Node, kind: NormRoot) -> Node | None:
    """``product`` if it multiplies or divides the statistic's numerator by ``factor``."""
    if kind is NormRoot.SQRT:
        operands = [product.args[:2]] if product.target in DIV else []
    else:
        operands = [product.args[:2], product.args[1::-1]] if product.target in MUL else []
    for numerator, other in operands:
        if unshaped(other) is not factor or not statistic.numerator(numerator):
            continue
        matcher.one_number_a_row(other, over=statistic.x, what=_named(kind), at=product)
        matcher.through_views(other)
        return matcher.take(product)
    return None


def _named(kind: NormRoot) -> str:
    return "rsqrt(mean + eps)" if kind is NormRoot.RSQRT else "sqrt(mean + eps)"


def _step(matcher: Matcher, reader: Node) -> Node:
    """Step over a reader of the factor and over the views between."""
    matcher.through_views(reader.args[0])
    return matcher.take(reader)


def _by_one(matcher: Matcher, product: Node) -> bool:
    found = matcher.with_number(product)
    return found is not None and found[1] == 1 and dtype_of(product) == torch.float32
