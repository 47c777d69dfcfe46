# SPDX-License-Identifier: Apache-2.0
"""The forms in which a rotation of pairs is written; ``rope`` matches what surrounds them.

::

    x → slice, slice → neg → cat → mul(sin) → add(mul(x, cos), ·)      rotate-half, by cat([x2, -x1]) the inverse
    x1, x2 → sub(mul(x1, cos), mul(x2, sin)), add(mul(x2, cos), mul(x1, sin)) → cat, or two slice_scatter
    x → view_as_complex → mul(freqs) → view_as_real → view             complex
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import (
    RESHAPES,
    cast_dtype,
    dtype_of,
    lossless,
    only_reader,
    shape_of,
)
from helion_compile.passes.patterns.matcher import ADD, MUL, Matcher
from helion_compile.passes.patterns.slices import Part, end_of, part_of, written_part
from helion_compile.passes.semantics import RopePairs, RopeTable

__all__ = ["FORMS", "HALF", "PLAIN_FLOATS", "Rotated", "take_parts"]

aten = torch.ops.aten

PLAIN_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
HALF = frozenset({torch.bfloat16, torch.float16})
_SUMS, _INVERSE_SUMS = "x2 * cos + x1 * sin beside x1 * cos - x2 * sin", "x1 * cos + x2 * sin beside x2 * cos - x1 * sin"
_ROUNDED = {torch.float32: (torch.bfloat16, torch.float16)}  # by a write
_NEW = frozenset({aten.empty.memory_format, aten.empty_strided.default})


class Rotated(NamedTuple):
    """What an anchor was found to compute."""

    x: Node
    pairs: RopePairs
    table: RopeTable | None  # None for complex numbers
    inputs: dict[str, Node]  # cos and sin, or freqs
    value: Node
    computed: torch.dtype  # of the products and sums; fp32 ones may be rounded in ``value``
    inverse: bool = False


def _of_cat(matcher: Matcher) -> Rotated | None:
    anchor = matcher.anchor
    parts, rank = anchor.args[0], len(shape_of(anchor))
    if len(parts) != 2 or not all(isinstance(part, Node) and shape_of(part) for part in parts) or end_of(anchor, 1) != -1:
        return None
    wholes = [user for user in anchor.users if user.target in RESHAPES]
    if all(part.target is aten.unsqueeze.default and part.args[1] in (-1, rank - 1) for part in parts):
        if len(wholes) != 1 or len(anchor.users) != 1:
            return None
        whole, pairs, steps = wholes[0], RopePairs.INTERLEAVED, [*parts, *wholes]
        parts = [part.args[0] for part in parts]
    else:
        whole, pairs, steps = anchor, RopePairs.NEOX, []
    parts, casts = _before_rounding(parts, dtype_of(whole))
    first, second = (lossless(part) for part in parts)
    if first.target is aten.neg.default:
        found = _rotated_times_sin(matcher, whole, pairs, parts)
    elif second.target is aten.neg.default:
        found = _rotated_times_sin(matcher, whole, pairs, parts, inverse=True)
    elif {first.target, second.target} == {aten.sub.Tensor, aten.add.Tensor} and [first, second] == list(parts):
        found = _two_sums(matcher, pairs, first, second, value=whole)
    else:
        return None
    for step in (*steps, *casts) if found else ():
        matcher.take(step)
    return found


def _rotated_times_sin(
    matcher: Matcher, whole: Node, pairs: RopePairs, parts: list[Node], *, inverse: bool = False
) -> Rotated | None:
    """x * cos + whole * sin, with ``whole`` of ``parts`` (-x2, x1), or (x2, -x1) for the inverse."""
    negated = lossless(parts[inverse])
    of_parts = [part_of(parts[not inverse]), part_of(negated.args[0])]
    first, second = reversed(of_parts) if inverse else of_parts
    source = _paired(first, second, pairs)
    if source is None or first is None or second is None:
        if _paired(second, first, pairs) is not None:
            matcher.fail(
                matcher.anchor,
                RefusalKind.FUNCTION,
                "the cat is cat([x1, -x2])" if inverse else "the cat is cat([-x1, x2])",
                "cat([-x2, x1]) fuses",
            )
        return None
    for rotated in (whole, *(user for user in whole.users if lossless(user) is lossless(whole))):
        for product in [user for user in rotated.users if user.target in MUL]:
            sin = matcher.other(product, rotated)
            for total in product.users:
                straight = matcher.other(total, product) if total.target in ADD else None
                if not isinstance(straight, Node) or straight.target not in MUL or total.kwargs.get("alpha", 1) != 1:
                    continue
                cos = matcher.other(straight, lossless(source), behind=lossless)
                if not isinstance(cos, Node) or not isinstance(sin, Node):
                    continue
                take_parts(matcher, first, second)
                for operand in (*parts, rotated, *(operand for operand in straight.args[:2] if operand is not cos)):
                    matcher.exact(operand)
                matcher.take(negated), matcher.take(whole), matcher.take(product), matcher.take(straight)
                _check_tables(matcher, cos, sin, shape_of(source)[-1])
                matcher.take(total)
                tables = {"cos": cos, "sin": sin}
                return Rotated(source, pairs, RopeTable.ELEMENT, tables, total, dtype_of(total), inverse)
    matcher.fail(
        matcher.anchor,
        RefusalKind.PATTERN,
        "{readers} of the cat",
        "x * cos + cat([-x2, x1]) * sin",
        readers=list(whole.users),
    )


def _two_sums(matcher: Matcher, pairs: RopePairs, left: Node, right: Node, *, value: Node) -> Rotated | None:
    """(x1 cos - x2 sin, x2 cos + x1 sin), or its inverse (x1 cos + x2 sin, x2 cos - x1 sin), joined as ``value``."""
    inverse = left.target is aten.add.Tensor
    difference, total = (right, left) if inverse else (left, right)
    products = [*difference.args[:2], *total.args[:2]]
    if any(node.kwargs.get("alpha", 1) != 1 for node in (difference, total)):
        return None
    if not all(isinstance(product, Node) and product.target in MUL for product in products):
        return None
    for (minuend, cos), (subtrahend, sin) in ((a, b) for a in _orders(products[0]) for b in _orders(products[1])):
        x1, x2 = (subtrahend, minuend) if inverse else (minuend, subtrahend)
        first, second = part_of(x1), part_of(x2)
        source = _paired(first, second, pairs)
        if source is None:
            if _paired(second, first, pairs) is not None:
                found = "x2 * cos + x1 * sin" if inverse else "x2 * cos - x1 * sin"
                matcher.fail(
                    left, RefusalKind.FUNCTION, "the first of a pair is {found}", "x1 * cos - x2 * sin fuses", found=found
                )
            for cut in RopePairs:
                if _paired(first, second, cut) is not None:
                    matcher.fail(
                        left,
                        RefusalKind.FUNCTION,
                        "{cut} pairs are rotated and put together as {pairs}",
                        "put back where they were they fuse",
                        cut=cut.value,
                        pairs=pairs.value,
                    )
            continue
        summands = products[2:], products[:1:-1]
        if not any(_is_product(matcher, a, subtrahend, cos) and _is_product(matcher, b, minuend, sin) for a, b in summands):
            matcher.fail(
                total,
                RefusalKind.PATTERN,
                "{total} of {products}",
                "x1 * cos + x2 * sin beside x2 * cos - x1 * sin"
                if inverse
                else "x2 * cos + x1 * sin beside x1 * cos - x2 * sin",
                total=total,
                products=[product.args[:2] for product in products[2:]],
            )
        for product in products:
            for operand in matcher.take(product).args[:2]:
                if part := part_of(operand):
                    take_parts(matcher, part)
        matcher.take(difference), matcher.take(total)
        _check_tables(matcher, cos, sin, shape_of(source)[-1] // 2)
        computed = dtype_of(difference)
        if dtype_of(value) not in (computed, *_ROUNDED.get(computed, ())):
            matcher.fail(
                value,
                RefusalKind.DTYPE,
                "{computed} becomes {dtype}",
                "fp32 rounded to 16 bits fuses",
                computed=computed,
                dtype=dtype_of(value),
            )
        return Rotated(source, pairs, RopeTable.PAIR, {"cos": cos, "sin": sin}, matcher.take(value), computed, inverse)
    return None


def _of_writes(matcher: Matcher) -> Rotated | None:
    """Writes to the even and to the odd elements, or to the halves, of one tensor."""
    outer = matcher.anchor
    inner = outer.args[0]
    if inner.target is not aten.slice_scatter.default:
        return None
    width = shape_of(outer)[-1]
    writes = {}
    for write in (inner, outer):
        copy = write.args[1]
        value = copy.args[1] if copy.target is aten.copy.default else copy
        writes[written_part(write)] = (value, copy)
    if not isinstance(width, int):
        return None
    for pairs, spots in _spots(width).items():
        if writes.keys() != set(spots):
            continue
        (left, right), casts = _before_rounding([writes[spot][0] for spot in spots], dtype_of(outer))
        if {left.target, right.target} != {aten.sub.Tensor, aten.add.Tensor}:
            return None
        found = _two_sums(matcher, pairs, left, right, value=outer)
        for step in (inner, *casts):
            matcher.take(step)
        for value, copy in writes.values():
            if copy is not value:
                matcher.take(matcher.take(copy).args[0], cheap=True)
        if inner.args[0].target in _NEW:
            matcher.take(inner.args[0], cheap=True)
        return found
    return None


def _of_complex(matcher: Matcher) -> Rotated | None:
    for product in matcher.anchor.users:
        freqs = matcher.other(product, matcher.anchor) if product.target in MUL else None
        dtype = dtype_of(freqs)
        if not isinstance(freqs, Node) or dtype is None or not dtype.is_complex:
            continue
        x = matcher.through_views(matcher.anchor.args[0])
        real = _step_to_reader(matcher, product, {aten.view_as_real.default}, "as real numbers")
        whole = _step_to_reader(matcher, real, RESHAPES, "in the shape of x")
        return Rotated(x, RopePairs.INTERLEAVED, None, {"freqs": freqs}, matcher.take(whole), dtype_of(real))
    return None


def _step_to_reader(matcher: Matcher, node: Node, targets: Collection[Any], how: str) -> Node:
    """Step over ``node``, which belongs to the embedding, to its only reader."""
    reader = only_reader(node)
    if reader is None or reader.target not in targets:
        matcher.fail(
            node,
            RefusalKind.READER,
            "the product of complex numbers is read by {readers}",
            "read {how} alone it fuses",
            readers=list(node.users),
            how=how,
        )
    matcher.take(node)
    return reader


FORMS = {
    aten.cat.default: _of_cat,
    aten.slice_scatter.default: _of_writes,
    aten.view_as_complex.default: _of_complex,
}


def _spots(width: int) -> dict[RopePairs, tuple[tuple[int, int, int], ...]]:
    """Where the first and the second of each pair are: start, stop and step in the last dimension."""
    return {
        RopePairs.NEOX: ((0, width // 2, 1), (width // 2, width, 1)),
        RopePairs.INTERLEAVED: ((0, width, 2), (1, width, 2)),
    }


def _before_rounding(parts: list[Node], dtype: torch.dtype) -> tuple[list[Node], list[Node]]:
    """What is rounded, and the casts, if both parts are casts from fp32 to ``dtype``; else the parts."""
    if all(cast_dtype(part) == dtype and dtype_of(part.args[0]) == torch.float32 for part in parts):
        return [part.args[0] for part in parts], parts
    return parts, []


def _paired(first: Part | None, second: Part | None, pairs: RopePairs) -> Node | None:
    """The tensor whose elements ``first`` and ``second`` are rotated together."""
    if first is None or second is None or lossless(first.source) is not lossless(second.source):
        return None
    width = shape_of(first.source)[-1]
    return first.source if width % 2 == 0 and (first.spot, second.spot) == _spots(width)[pairs] else None


def _orders(product: Node) -> Iterator[tuple[Any, Any]]:
    left, right = product.args[:2]
    yield left, right
    yield right, left


def _is_product(matcher: Matcher, product: Node, part: Node, table: Node) -> bool:
    """Whether ``product`` is ``part`` times ``table``; both may be cut out anew for each use."""
    wanted = part_of(part)
    for value, factor in _orders(product):
        found = part_of(value)
        if found and wanted and found.spot == wanted.spot and lossless(found.source) is lossless(wanted.source):
            if matcher.same(factor, table):
                return True
    return False


def take_parts(matcher: Matcher, *parts: Part) -> None:
    for part in parts:
        for view in part.views:
            matcher.take(view, cheap=True)
        matcher.exact(part.source)


def _check_tables(matcher: Matcher, cos: Node, sin: Node, width: int) -> None:
    dtypes = dtype_of(cos), dtype_of(sin)
    if dtypes[0] not in PLAIN_FLOATS or dtypes[0] != dtypes[1]:
        matcher.fail(
            cos, RefusalKind.DTYPE, "cos is {cos} and sin {sin}", "floats of one dtype fuse", cos=dtypes[0], sin=dtypes[1]
        )
    for node in (cos, sin):
        if not shape_of(node) or shape_of(node)[-1] != width:
            matcher.fail(
                node,
                RefusalKind.SHAPE,
                "{node} has shape {shape}",
                "cos and sin of [..., {width}] fuse",
                node=node,
                shape=shape_of(node) or (),
                width=width,
            )
