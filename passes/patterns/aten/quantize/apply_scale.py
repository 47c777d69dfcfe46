# SPDX-License-Identifier: Apache-2.0
"""How a scale is applied to the values.

::

    x → div(scale)                                             DIVIDE
    scale → reciprocal [→ mul(1)] → mul(x)                     MULTIPLY_RECIPROCAL
    amax → reciprocal → mul(qmax) → mul(x)                     MULTIPLY_FACTOR

Gives ``use`` of a ``Quantize``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import CASTS, known_equal, number, origin, shape_of, unshaped
from helion_compile.passes.patterns.matcher import DIV, MUL, RECIPROCAL, Matcher
from helion_compile.passes.semantics import ScaleUse

__all__ = ["AppliedScale", "match_applied_scale"]


@dataclass(frozen=True)
class AppliedScale:
    """``source`` is the scale, or with MULTIPLY_FACTOR the factor; ``at_use`` what multiplies or divides, in its shape."""

    kind: ScaleUse
    x: Any
    at_use: Any
    source: Any


def match_applied_scale(matcher: Matcher, scaled: Node) -> AppliedScale:
    """How ``scaled``, a division or multiplication, applies a scale."""
    left, right = scaled.args[:2]
    if scaled.target in DIV:
        if number(right) is not None:
            matcher.fail(
                scaled,
                RefusalKind.CONSTANT,
                "x is divided by {right}, a constant of the graph",
                "a scale that is a tensor fuses",
                right=right,
            )
        return AppliedScale(ScaleUse.DIVIDE, left, right, right)
    for x, factor in ((left, right), (right, left)):
        if not isinstance(x, Node):
            continue
        reciprocal = _times_one(factor)
        if isinstance(reciprocal, Node) and reciprocal.target in RECIPROCAL:
            matcher.times_one(factor)
            return AppliedScale(ScaleUse.MULTIPLY_RECIPROCAL, x, factor, matcher.take(reciprocal).args[0])
        if _is_factor(factor):
            return AppliedScale(ScaleUse.MULTIPLY_FACTOR, x, factor, factor)
    for factor in (left, right):
        product = origin(factor)
        if isinstance(product, Node) and product.target in MUL | DIV and known_equal((shape_of(factor) or (0,))[-1], 1):
            matcher.fail(
                scaled,
                RefusalKind.FUNCTION,
                "x is multiplied by {product}",
                "x / scale and x * (1 / scale) with scale = amax / qmax fuse, and so does x * ((1 / "
                "amax) * qmax); qmax / amax rounds differently",
                product=product,
            )
    matcher.fail(
        scaled,
        RefusalKind.PATTERN,
        "{scaled} of {left} and {right}: a given factor, or none, is in no pattern yet",
        "x / scale or x * (1 / scale)",
        scaled=scaled,
        left=left,
        right=right,
    )


def _times_one(value: Any) -> Any:
    """What is behind views and multiplications by 1; steps over nothing."""
    while isinstance(value := unshaped(value), Node) and value.target in MUL:
        tensor = next((a for a, b in (value.args[:2], value.args[1::-1]) if number(b) == 1), None)
        if tensor is None:
            break
        value = tensor
    return value


def _is_factor(value: Any) -> bool:
    """Whether ``value`` is a reciprocal times a number, maybe computed in fp64."""
    product = unshaped(value)
    if isinstance(product, Node) and product.target in CASTS and product.meta["val"].dtype == torch.float32:
        product = unshaped(product.args[0])
    if not isinstance(product, Node) or product.target not in MUL:
        return False
    return any(
        isinstance(behind := unshaped(tensor), Node) and behind.target in RECIPROCAL and number(constant) is not None
        for tensor, constant in (product.args[:2], product.args[1::-1])
    )
