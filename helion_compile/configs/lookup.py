# SPDX-License-Identifier: Apache-2.0
"""The rows of one GPU, arranged so that a case finds its row at once."""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Collection, Iterable
from typing import Any, Literal, TypeAlias

from helion_compile.configs.case import Case, FieldValue
from helion_compile.configs.row import Row

__all__ = ["CaseIndex", "Match"]

Match: TypeAlias = Literal["exact", "bucketed", "nearest", "default-case"]
_OF_16_BITS = ("bf16", "fp16")  # as many bytes and registers: what is fast for one is for the other
_Exact: TypeAlias = tuple[tuple[str, FieldValue], ...]


class CaseIndex:
    """Finds the row for a case: the same case; else the next larger one; else the nearest; else the default case's.

    Rows of the same exact key fields stand together, in the order of their bucketed ones.

    Args:
        rows: of several for one case, the first is kept.
        nearest: the exact key fields that the nearest case may have others of, or None for all that are numbers.
    """

    def __init__(self, rows: Iterable[Row], bucketed: tuple[str, ...], nearest: Collection[str] | None = None) -> None:
        self._bucketed, self._nearest = bucketed, nearest
        self._by_case: dict[Case, Row] = {}
        for row in rows:
            self._by_case.setdefault(row.case, row)
        self._default = self._by_case.pop(Case(), None)
        groups: dict[_Exact, list[tuple[tuple[Any, ...], Row]]] = {}
        for case in sorted(self._by_case, key=lambda case: case.order):
            exact, sizes = self._split(case)
            if all(map(_is_number, sizes)):
                groups.setdefault(exact, []).append((sizes, self._by_case[case]))
        self._groups = {exact: _Group(self._kind(exact), exact, members) for exact, members in groups.items()}
        # A server asks for one untuned hidden size with many token counts.
        self._nearest_group = functools.lru_cache(256)(self._nearest_group)  # type: ignore[method-assign]

    def find(self, case: Case) -> tuple[Row, Match] | None:
        if row := self._by_case.get(case):
            return row, "exact"
        exact, sizes = self._split(case)
        if all(map(_is_number, sizes)):
            group = self._groups.get(exact)
            if group and len(group.sizes[0]) == len(sizes) and (row := group.next_larger(sizes)):
                return row, "bucketed"
            if group := self._nearest_group(exact, len(sizes)):
                return group.next_larger(sizes) or group.nearest(sizes), "nearest"
        return (self._default, "default-case") if self._default else None

    def _split(self, case: Case) -> tuple[_Exact, tuple[Any, ...]]:
        """The exact key fields, and the sizes of the bucketed ones in the order of their declaration."""
        fields, bucketed = case.fields, self._bucketed
        exact = tuple([field for field in fields.items() if field[0] not in bucketed])
        return exact, tuple([fields[name] for name in bucketed if name in fields])

    def _nearest_group(self, exact: _Exact, sizes: int) -> _Group | None:
        """A config for another hidden size is a guess worth making, one for wider elements or another layout is not."""
        kind = self._kind(exact)
        comparable = [group for group in self._groups.values() if group.kind == kind and len(group.sizes[0]) == sizes]
        return min(comparable, key=lambda group: _distance(_numbers(exact), group.numbers), default=None)

    def _kind(self, exact: _Exact) -> tuple[tuple[str, str], ...]:
        """What two cases must share to be compared by size: the names of their fields, and every value that may not differ."""

        def kind(name: str, value: FieldValue) -> str:
            if name == "dtype" and value in _OF_16_BITS:
                return "16 bits"
            may_differ = _is_number(value) and (self._nearest is None or name in self._nearest)
            return "number" if may_differ else repr(value)

        return tuple((name, kind(name, value)) for name, value in exact)


class _Group:
    """Rows that share their exact key fields."""

    def __init__(self, kind: Any, exact: _Exact, members: list[tuple[tuple[Any, ...], Row]]) -> None:
        self.numbers = _numbers(exact)
        self.kind = kind
        self.members = sorted(members, key=lambda member: member[0])
        self.sizes = [sizes for sizes, _ in self.members]

    def next_larger(self, asked: tuple[Any, ...]) -> Row | None:
        """The smallest row that is at least as large in every bucketed key field."""
        start = bisect_left(self.sizes, asked)
        if len(asked) == 1:
            return self.members[start][1] if start < len(self.members) else None
        larger = [m for m in self.members[start:] if all(have >= want for have, want in zip(m[0], asked, strict=True))]
        return min(larger, key=lambda member: _distance(asked, member[0]), default=(None, None))[1]

    def nearest(self, asked: tuple[Any, ...]) -> Row:
        """The row for which nothing larger was found."""
        if len(asked) == 1:
            return self.members[-1][1]
        return min(self.members, key=lambda member: _distance(asked, member[0]))[1]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(exact: _Exact) -> tuple[Any, ...]:
    return tuple(value for _, value in exact if _is_number(value))


def _distance(one: tuple[Any, ...], other: tuple[Any, ...]) -> float:
    """How many doublings lie between two tuples of sizes, summed: what half or twice a size costs matters, not +1."""
    return sum(abs(_doublings(a) - _doublings(b)) for a, b in zip(one, other, strict=True))


def _doublings(size: float) -> float:
    return math.copysign(math.log2(1 + abs(size)), size)
