# SPDX-License-Identifier: Apache-2.0
"""Tables of operators: one row an operator, or one for each form that its versions have; and the patterns made of them.

A row names the operator, its arguments, a builder for each semantic op that it computes, and the versions of the library
that were seen to have it so.  A builder gets the call (:class:`OpMatcher`) and returns its ``Match``, None where nobody
reads the result, or raises ``MatchFailed``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.custom_ops.op_call import OpMatcher, format_argument, get_op_name

__all__ = ["Builder", "OperatorPattern", "OperatorRow", "make_table", "refuse_operator"]

Builder = Callable[[OpMatcher], "Match | None"]


@dataclass(frozen=True)
class OperatorRow:
    """One operator in one form.

    ``arguments`` are those of its schema in their order, with "!" behind one that is written to: "result! input epsilon";
    None where any are taken.
    """

    name: str  # "_C.rms_norm", of its default overload
    arguments: str | None
    builders: Mapping[str, Builder]  # by the pattern's NAME
    versions: tuple[str, ...] = ()

    def find_unknown_argument(self, call: OpMatcher) -> str | None:
        """What the call gives that this form does not have, or does not write to: 'gemma=True'.

        An argument that is not in the row may have its default value.
        """
        if self.arguments is None:
            return None
        known = self.arguments.replace("!", "").split()
        for argument in call.schema.arguments:
            value = call.arguments[argument.name]
            if argument.name not in known and not (argument.has_default_value() and value == argument.default_value):
                return f"{argument.name}={value!r}"
        return None

    def fits(self, call: OpMatcher) -> bool:
        """Whether the operator has this form."""
        if self.arguments is None:
            return True
        has = set(map(format_argument, call.schema.arguments))
        return has.issuperset(self.arguments.split()) and self.find_unknown_argument(call) is None


def make_table(rows: Iterable[OperatorRow]) -> dict[str, tuple[OperatorRow, ...]]:
    """The rows by the operator's name with its overload, as a graph's targets are named."""
    table: dict[str, tuple[OperatorRow, ...]] = {}
    for row in rows:
        name = f"{row.name}.default"
        table[name] = (*table.get(name, ()), row)
    return table


@dataclass(frozen=True)
class OperatorPattern:
    """The operators of a table that compute one semantic op: a pattern as ``patterns.PATTERNS`` lists them."""

    NAME: str
    table: Mapping[str, tuple[OperatorRow, ...]]

    @property
    def ANCHORS(self) -> frozenset[str]:
        return frozenset(name for name, rows in self.table.items() if any(self.NAME in row.builders for row in rows))

    def match_at(self, anchor: Node) -> Match | None:
        """The match that the row's builder makes.

        Raises:
            MatchFailed: the operator has the form of no row, or the builder says why it stays.
        """
        call = OpMatcher(anchor)
        rows = self.table[get_op_name(anchor) or ""]
        # Where none fits, the last one's builder says what is missing.
        row = next((row for row in rows if row.fits(call)), rows[-1])
        if unknown := row.find_unknown_argument(call):
            call.fail_unknown(f"is given {unknown}")
        return row.builders[self.NAME](call)


def refuse_operator(call: OpMatcher, found: str, remedy: str) -> NoReturn:
    """Builder of an operator that is known, and stays."""
    call.fail(call.anchor, RefusalKind.OPERATOR, "{name} " + found, remedy, name=call.name)
