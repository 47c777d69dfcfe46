# SPDX-License-Identifier: Apache-2.0
"""Scaled GEMMs of aten: ``_scaled_mm``, ``_scaled_mm_v2`` and ``_int_mm`` with the scales behind it.

::

    out = aten._scaled_mm(a, b, a_scale, b_scale, bias, out_dtype=…, use_fast_accum=…)           <- anchor
    sums = aten._int_mm(a, b)                                        int32 [M, N]                  <- anchor
    out = (sums.to(dtype) * a_scale * b_scale [+ bias]).to(out_dtype)    either scale first, the cast explicit or promoted
    out = ((sums.to(dtype) * a_scale).to(bf16) * b_scale [+ bias]).to(bf16)                        torchao

As a graph, int8 is ``a, b → _int_mm → cast → mul(a_scale) [→ cast] → mul(b_scale) [→ add(bias)] [→ cast]``.  Each gives a
``Matmul``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import (
    CASTS,
    RESHAPES,
    dtype_of,
    known_equal,
    lossless,
    only_reader,
    same_shape,
    shape_of,
    unshaped,
)
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.matcher import MUL, Matcher
from helion_compile.passes.semantics import Granularity, Matmul

__all__ = ["ANCHORS", "NAME", "granularity", "match_at"]

aten = torch.ops.aten

NAME = "matmul"
_V2 = getattr(getattr(aten, "_scaled_mm_v2", None), "default", None)
ANCHORS = frozenset({aten._scaled_mm.default, aten._int_mm.default} | ({_V2} if _V2 else set()))
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
# torch.nn.functional.ScalingType: the kinds of scales that _scaled_mm_v2 is told by number.
_RECIPES = {0: Granularity.TENSOR, 1: Granularity.TOKEN}


def match_at(anchor: Node) -> Match | None:
    """The product that such a call computes; None without fake values to tell the shapes from."""
    if shape_of(anchor) is None:
        return None
    if anchor.target is aten._int_mm.default:
        return _int_mm(anchor)
    names = [argument.name for argument in anchor.target._schema.arguments]
    given = dict(zip(names, anchor.args, strict=False)) | anchor.kwargs
    return _scaled_mm_v2(anchor, given) if anchor.target is _V2 else _scaled_mm(anchor, given)


def granularity(matcher: Matcher, rows: Any, columns: Any, a_scale: Node, b_scale: Node) -> Granularity:
    """What shares a scale in the product of [rows, K] and [K, columns], alike for both; fails for anything else."""
    a_shape, b_shape = shape_of(a_scale), shape_of(b_scale)
    by_column = same_shape(b_shape, (1, columns)) or same_shape(b_shape, (columns, 1)) or same_shape(b_shape, (columns,))
    if (_one_each(a_shape, rows) or same_shape(a_shape, (rows,))) and by_column:
        return Granularity.TOKEN
    if all(known_equal(size, 1) for size in (*a_shape, *b_shape)):
        return Granularity.TENSOR
    if len(a_shape) == 2 and len(b_shape) == 2 and not known_equal(a_shape[1], 1):
        return Granularity.GROUP
    matcher.fail(
        matcher.anchor,
        RefusalKind.PATTERN,
        "{a_shape} and {b_shape}",
        "scales of shape [{rows}, 1] and [1, {columns}], one per row and one per column, or of one element each",
        a_shape=tuple(a_shape),
        b_shape=tuple(b_shape),
        rows=rows,
        columns=columns,
    )


def _one_each(shape: Sequence[Any], rows: Any) -> bool:
    """Whether scales of ``shape`` are [..., 1] with as many elements as there are rows."""
    return len(shape) > 1 and known_equal(shape[-1], 1) and known_equal(math.prod(shape), rows)


def _scaled_mm(anchor: Node, given: dict[str, Any]) -> Match:
    matcher = Matcher(anchor)
    a, b, a_scale, b_scale, bias = (given.get(name) for name in ("self", "mat2", "scale_a", "scale_b", "bias"))
    if given.get("scale_result") is not None:
        matcher.fail(
            anchor, RefusalKind.OPERATOR, "a scaled result is in no pattern yet", "a product without scale_result can be read"
        )
    kind = granularity(matcher, shape_of(a)[0], shape_of(b)[1], a_scale, b_scale)
    return _match_product(matcher, kind, given, a, b, a_scale, b_scale, bias)


def _scaled_mm_v2(anchor: Node, given: dict[str, Any]) -> Match:
    matcher = Matcher(anchor)
    recipes = given["recipe_a"], given["recipe_b"]
    if any(len(scales) != 1 for scales in (given["scale_a"], given["scale_b"], *recipes)):
        matcher.fail(
            anchor,
            RefusalKind.OPERATOR,
            "two levels of scales are in no pattern yet",
            "one scale for each operand can be read",
        )
    if any(given.get(name) for name in ("contraction_dim",)) or any(map(any, (given["swizzle_a"], given["swizzle_b"]))):
        matcher.fail(
            anchor,
            RefusalKind.OPERATOR,
            "swizzled scales and other contracted dimensions are in no pattern yet",
            "plain ones can be read",
        )
    kinds = {_RECIPES.get(recipe, Granularity.GROUP) for (recipe,) in recipes}
    if len(kinds) > 1:
        matcher.fail(
            anchor,
            RefusalKind.OPERATOR,
            "the two operands have scales of different kinds (recipes {recipe_a} and {recipe_b})",
            "two of one kind can be read",
            recipe_a=recipes[0],
            recipe_b=recipes[1],
        )
    (a_scale,), (b_scale,) = given["scale_a"], given["scale_b"]
    return _match_product(matcher, kinds.pop(), given, given["self"], given["mat2"], a_scale, b_scale, given.get("bias"))


def _match_product(
    matcher: Matcher, kind: Granularity, given: dict[str, Any], a: Node, b: Node, a_scale: Node, b_scale: Node, bias: Any
) -> Match:
    if dtype_of(a) != dtype_of(b):
        matcher.fail(
            matcher.anchor,
            RefusalKind.DTYPE,
            "the operands are {a_dtype} and {b_dtype}",
            "two of one dtype fuse",
            a_dtype=dtype_of(a),
            b_dtype=dtype_of(b),
        )
    op = Matmul(
        dtype=dtype_of(matcher.anchor),
        operands=dtype_of(a),
        a_scales=kind,
        b_scales=kind,
        scale_dtype=dtype_of(a_scale),
        bias=bias is not None,
        fast_accum=bool(given.get("use_fast_accum", False)),
    )
    inputs = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale, "bias": bias}
    return matcher.match(op, {name: node for name, node in inputs.items() if node is not None}, {"out": matcher.anchor})


# --- int8 ---------------------------------------------------------------------------------------------------------------


def _int_mm(anchor: Node) -> Match | None:
    """The integer product with the two scalings behind it; None when somebody wants the integers as they are."""
    matcher = Matcher(anchor)
    a, b = anchor.args
    if dtype_of(a) != torch.int8 or dtype_of(b) != torch.int8:
        matcher.fail(
            anchor,
            RefusalKind.DTYPE,
            "the operands are {a_dtype} and {b_dtype}, as on a CPU, which shifts int8 by 128",
            "two of int8 fuse",
            a_dtype=dtype_of(a),
            b_dtype=dtype_of(b),
        )
    rows, columns = shape_of(anchor)
    scales: dict[str, Node] = {}
    dtypes: list[torch.dtype] = []
    value, between = anchor, None
    while len(scales) < 2:
        value, reader = _next_reader(matcher, value, scales)
        if reader is None:
            return None
        if reader.target in CASTS and dtype_of(reader) in _FLOATS:
            value = matcher.take(reader)
            if scales and dtype_of(value) != dtypes[-1]:
                between = dtype_of(value)
            elif not scales:
                dtypes.append(dtype_of(value))
            continue
        scale = matcher.other(reader, value) if reader.target in MUL else None
        if isinstance(scale, Node) and scale.target is aten.expand.default:
            scale = matcher.take(scale, cheap=True).args[0]
        if not isinstance(scale, Node):
            if not scales:
                return None
            matcher.fail(reader, RefusalKind.PATTERN, "{reader}", "the other scale to be multiplied in", reader=reader)
        scales[_side(matcher, scale, rows, columns, scales)] = scale
        value = matcher.take(reader)
        dtypes.append(dtype_of(value))
    value, bias = _biased(matcher, value, columns)
    if len(set(dtypes)) > 1:
        matcher.fail(
            value, RefusalKind.DTYPE, "the steps are in {dtypes}", "a product scaled in one dtype fuses", dtypes=list(dtypes)
        )
    (scaled,) = set(dtypes)
    readers = matcher.readers(value)
    if len(readers) == 1 and readers[0].target in CASTS and dtype_of(readers[0]) in _FLOATS:
        (value,) = readers
        matcher.through_views(matcher.take(value).args[0])
    token = {name: not all(known_equal(size, 1) for size in shape_of(scale)) for name, scale in scales.items()}
    op = Matmul(
        dtype=dtype_of(value),
        operands=dtype_of(a),
        a_scales=Granularity.TOKEN if token["a_scale"] or known_equal(rows, 1) else Granularity.TENSOR,
        b_scales=Granularity.TOKEN if token["b_scale"] else Granularity.TENSOR,
        scale_dtype=scaled,
        a_scale_first=next(iter(scales)) == "a_scale",
        between_dtype=between,
        bias=bias is not None,
    )
    return matcher.match(op, {"a": a, "b": b, **scales, **({} if bias is None else {"bias": bias})}, {"out": value})


def _biased(matcher: Matcher, value: Node, columns: Any) -> tuple[Node, Node | None]:
    """``value`` plus a bias [columns], and the bias, if an addition of one in its dtype is its only reader, behind views."""
    readers, wanted = matcher.readers(value), dtype_of(value)
    if len(readers) != 1 or readers[0].target is not aten.add.Tensor or readers[0].kwargs.get("alpha", 1) != 1:
        return value, None
    (total,) = readers
    bias = matcher.other(total, value, behind=unshaped)
    if not isinstance(bias, Node) or dtype_of(total) != wanted or not same_shape(shape_of(lossless(bias)), (columns,)):
        return value, None
    matcher.through_views(next(operand for operand in total.args[:2] if operand is not bias))
    return matcher.take(total), matcher.exact(bias)


def _next_reader(matcher: Matcher, value: Node, scales: dict[str, Node]) -> tuple[Node, Node | None]:
    """What reads ``value``, alone; and the view of it that is read.  None where several do and no scale was seen yet."""
    while True:
        reader = only_reader(value)
        if reader is None and scales:
            matcher.fail(
                value,
                RefusalKind.READER,
                "{value} is read {count} times",
                "a value of the product's own fuses",
                value=value,
                count=len(value.users),
            )
        if reader is None or reader.target not in RESHAPES or not same_shape(shape_of(reader), shape_of(value)):
            return value, reader
        value = matcher.take(reader)


def _side(matcher: Matcher, scale: Node, rows: Any, columns: Any, known: dict[str, Node]) -> str:
    """Which operand a factor belongs to, by how it is broadcast over [rows, columns]."""
    shape = shape_of(scale) or ()
    if all(known_equal(size, 1) for size in shape):
        side = next(name for name in ("a_scale", "b_scale") if name not in known)
    elif same_shape(shape, (rows, 1)):
        side = "a_scale"
    elif same_shape(shape, (columns,)) or same_shape(shape, (1, columns)):
        side = "b_scale"
    else:
        matcher.fail(
            scale,
            RefusalKind.PATTERN,
            "one of shape {shape}",
            "a factor a row or a column of [{rows}, {columns}]",
            shape=tuple(shape),
            rows=rows,
            columns=columns,
        )
    if side in known:
        sides = "rows" if side == "a_scale" else "columns"
        matcher.fail(
            scale,
            RefusalKind.SHAPE,
            "both factors of the product are of its {sides}",
            "one of its rows and one of its columns can be read",
            sides=sides,
        )
    return side
