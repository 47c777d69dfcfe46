# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding, as real models write it.

With x1 and x2 the two halves of x [..., R], or its even and odd elements, cut by slice, split or unbind::

    x * cos + cat([-x2, x1]) * sin                               rotate-half        <- anchor cat
    cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin])              chunked            <- anchor cat
    both of these interleaved by unsqueeze, cat and reshape      stack and flatten  <- anchor cat
    out[..., 0::2] = x1 * cos - x2 * sin; out[..., 1::2] = …     strided writes     <- anchor slice_scatter
    view_as_real(view_as_complex(x) * freqs)                     complex            <- anchor view_as_complex

and around any of them a cat with the rest of x, when not all of it is rotated.  As a graph, rotate-half is
``x → slice, slice → neg → cat → mul(sin) → add(mul(x, cos), ·)``.  With the other signs, as in ``cat([x2, -x1])``, it is the
inverse.  Real numbers give a ``Rope``, complex ones a ``ComplexRope``.  Sums in fp32 may be rounded one by one, by casts or by
writes to a tensor of 16 bits, or as a whole: the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import (
    dtype_of,
    rounding_casts,
    same_shape,
    shape_of,
)
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.aten.rope_forms import FORMS, HALF, PLAIN_FLOATS, take_parts
from helion_compile.passes.patterns.matcher import Matcher
from helion_compile.passes.patterns.slices import end_of, part_of
from helion_compile.passes.semantics import ComplexRope, Rope, RopeRounding, SemanticOp

__all__ = ["ANCHORS", "NAME", "match_at"]

aten = torch.ops.aten

NAME = "rope"
ANCHORS = frozenset({aten.cat.default, aten.slice_scatter.default, aten.view_as_complex.default})
_TRANSPOSE = [0, 2, 1, 3]
_OF_COMPLEX = (torch.float32, torch.float64)  # what the products of complex64 and complex128 are computed in


def match_at(anchor: Node) -> Match | None:
    """The embedding around ``anchor``; None where a cat or a write belongs to something else."""
    if not shape_of(anchor):
        return None
    matcher = Matcher(anchor)
    found = FORMS[anchor.target](matcher)
    if found is None:
        return None
    x, value = matcher.exact(found.x), found.value
    rotary_dim = shape_of(x)[-1]
    table_dtype = dtype_of(found.inputs.get("cos"))
    complex_product = found.table is None
    if dtype_of(x) not in PLAIN_FLOATS or found.computed not in (_OF_COMPLEX if complex_product else PLAIN_FLOATS):
        matcher.fail(
            anchor,
            RefusalKind.DTYPE,
            "{x_dtype} is rotated in {computed}",
            "bf16, fp16 and fp32 fuse",
            x_dtype=dtype_of(x),
            computed=found.computed,
        )
    stepwise = not complex_product and found.computed != torch.float32
    if stepwise and not found.computed == dtype_of(x) == table_dtype:
        matcher.fail(
            anchor,
            RefusalKind.DTYPE,
            "x is {x_dtype}, cos and sin {table_dtype}",
            "of one dtype they fuse",
            x_dtype=dtype_of(x),
            table_dtype=table_dtype,
        )
    if not same_shape(shape_of(x), shape_of(value)):
        matcher.fail(
            value,
            RefusalKind.SHAPE,
            "x {shape} rotated by cos and sin becomes {out_shape}",
            "of one shape it fuses",
            shape=shape_of(x),
            out_shape=shape_of(value),
        )
    rounded = {torch.float32: HALF, torch.float64: PLAIN_FLOATS}.get(dtype_of(value), ())
    out = rounding_casts(value, {dtype_of(x)}.intersection(rounded))
    if out:
        matcher.take(value)
    out = out or (value,)
    x, out = _with_the_rest(matcher, x, out)
    x, transposed = _before_transpose(matcher, x)
    attributes: dict[str, Any] = dict(
        rotary_dim=rotary_dim, x_dtype=dtype_of(x), dtype=dtype_of(out[0]), transposed=transposed
    )
    if complex_product:
        op: SemanticOp = ComplexRope(computed=found.computed, **attributes)
    else:
        rounding = RopeRounding.EVERY_STEP if stepwise else RopeRounding.RESULT
        attributes |= dict(pairs=found.pairs, table=found.table, table_dtype=table_dtype, inverse=found.inverse)
        op = Rope(rounding=rounding, **attributes)
    return matcher.match(op, {"x": x} | found.inputs, {"out": out})


def _with_the_rest(matcher: Matcher, x: Node, out: tuple[Node, ...]) -> tuple[Node, tuple[Node, ...]]:
    """The whole x and result, if ``x`` is the beginning of one and a cat puts the rest behind the rotated part."""
    beginning, joined = part_of(x), next(iter(out[0].users), None)
    if beginning is None or joined is None or len(out) != 1 or len(out[0].users) != 1 or joined.target is not aten.cat.default:
        return x, out
    whole, pieces = beginning.source, joined.args[0]
    rest = part_of(pieces[1]) if len(pieces) == 2 and pieces[0] is out[0] and end_of(joined, 1) == -1 else None
    if rest is None or rest.source is not whole or dtype_of(joined) != dtype_of(whole):
        return x, out
    rotary_dim = shape_of(x)[-1]
    if beginning.spot != (0, rotary_dim, 1) or rest.spot != (rotary_dim, shape_of(whole)[-1], 1):
        return x, out
    matcher.take(out[0])
    take_parts(matcher, beginning, rest)
    return matcher.exact(whole), (matcher.take(joined),)


def _before_transpose(matcher: Matcher, x: Node) -> tuple[Node, bool]:
    transposed = x.target is aten.permute.default and list(x.args[1]) == _TRANSPOSE
    if x.target is aten.transpose.int and len(shape_of(x)) == 4:
        transposed = sorted(dim % 4 for dim in x.args[1:3]) == [1, 2]
    return (matcher.take(x, cheap=True).args[0], True) if transposed else (x, False)
