# SPDX-License-Identifier: Apache-2.0
"""The sizes of a graph that are dynamic.

Not documented by torch: ``ShapeEnv``'s tables of symbols, the same in ``compat.TORCH``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph

__all__ = ["Symbol", "symbols_in", "symbols_of", "traced_size"]

_UNBOUNDED = 2**31


@dataclass(frozen=True)
class Symbol:
    """A dynamic size, or another integer that changes: what it was when the graph was traced, and between what it may lie.

    ``traced`` is None for what depends on data, ``low`` and ``high`` are None without a bound.
    """

    traced: int | None
    low: int | None
    high: int | None

    def __str__(self) -> str:
        traced = "depends on data" if self.traced is None else f"{self.traced} when traced"
        return f"{traced}, {self._range()}"

    def _range(self) -> str:
        if self.low is None:
            return "any integer" if self.high is None else f"{self.high} and less"
        return f"{self.low} and more" if self.high is None else f"{self.low} to {self.high}"


def symbols_of(graph: Graph) -> dict[str, Symbol]:
    """The symbols in the shapes of the graph's inputs, by name."""
    return symbols_in(node.meta.get("val") for node in graph.find_nodes(op="placeholder"))


def symbols_in(values: Iterable[Any]) -> dict[str, Symbol]:
    """The symbols in the shapes of tensors, and in sizes, by name."""
    found: dict[str, Symbol] = {}
    for value in values:
        sizes = value.shape if isinstance(value, torch.Tensor) else (value,)
        for size in sizes:
            # The ragged size of a jagged tensor is a SymInt without an expression.
            expression = getattr(size.node, "expr", None) if isinstance(size, torch.SymInt) else None
            if expression is not None and size.node.shape_env is not None:
                for symbol in expression.free_symbols:
                    if str(symbol) not in found:
                        found[str(symbol)] = _symbol(size, symbol)
    return dict(sorted(found.items()))


def traced_size(size: int | torch.SymInt) -> int | None:
    """The size that was traced; None for one that depends on data, or is no number, as a jagged tensor's."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    has_hint = getattr(size.node, "has_hint", None)
    return _number(size.node.hint) if has_hint is not None and has_hint() else None


def _symbol(size: torch.SymInt, symbol: Any) -> Symbol:
    bounds = size.node.shape_env.var_to_range.get(symbol)
    low, high = (_number(bounds.lower), _number(bounds.upper)) if bounds is not None else (0, None)
    # What torch calls unbounded is 2**63 - 1, or a bit less.
    low, high = (None if bound is None or abs(bound) >= _UNBOUNDED else bound for bound in (low, high))
    return Symbol(traced_size(size) if size.node.expr == symbol else None, low, high)


def _number(value: Any) -> int | None:
    """An int, or what sympy has for one; None for an infinity and for what is no number."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError, AttributeError, RuntimeError):
        return None
