"""The sizes of a graph that are dynamic.

Not documented by torch: ``ShapeEnv``'s tables of symbols, the same in ``compat.TORCH``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph

__all__ = ["Symbol", "symbols_in", "symbols_of"]

_UNBOUNDED = 2**31


@dataclass(frozen=True)
class Symbol:
    """A dynamic size: what it was when the graph was traced, and between what it may lie for the graph to be used."""

    traced: int | None  # None for a size that depends on data
    low: int
    high: int | None  # None without a bound

    def __str__(self) -> str:
        traced = "depends on data" if self.traced is None else f"{self.traced} when traced"
        return f"{traced}, {f'{self.low} and more' if self.high is None else f'{self.low} to {self.high}'}"


def symbols_of(graph: Graph) -> dict[str, Symbol]:
    """The symbols in the shapes of the graph's inputs, by name."""
    return symbols_in(node.meta.get("val") for node in graph.find_nodes(op="placeholder"))


def symbols_in(values: Iterable[Any]) -> dict[str, Symbol]:
    """The symbols in the shapes of tensors, and in sizes, by name."""
    found: dict[str, Symbol] = {}
    for value in values:
        sizes = value.shape if isinstance(value, torch.Tensor) else (value,)
        for size in sizes:
            if isinstance(size, torch.SymInt) and size.node.shape_env is not None:
                for symbol in size.node.expr.free_symbols:
                    if str(symbol) not in found:
                        found[str(symbol)] = _symbol(size, symbol)
    return dict(sorted(found.items()))


def _symbol(size: torch.SymInt, symbol: Any) -> Symbol:
    bounds = size.node.shape_env.var_to_range.get(symbol)
    low, high = (int(bounds.lower), bounds.upper) if bounds is not None else (0, None)
    if high is not None:
        high = int(high) if high.is_number and high.is_finite and high < _UNBOUNDED else None
    traced = int(size.node.hint) if size.node.expr == symbol and size.node.has_hint() else None
    return Symbol(traced, low, high)
