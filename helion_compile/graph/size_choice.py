# SPDX-License-Identifier: Apache-2.0
"""What a call with symbolic sizes uses, over the range of these sizes: configs and library functions, each for a part of it.

Code without Python cannot ask a table.  So the table is asked while the code is made, for each part of the range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from helion_compile.configs.gpu import Gpu
from helion_compile.passes.ir.dynamic_sizes import traced_size

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["MOST_PARTS", "Part", "choose_parts", "find_switch", "list_parts", "substitute"]

MOST_PARTS = 6  # of a range: each is a kernel more in the generated code
LARGEST = 65536  # up to here the table is asked; what lies above takes the same


@dataclass(frozen=True)
class Part:
    """A part of the range, from ``low`` to ``high``, both included, and what is used there.

    Attributes:
        high: None where the range has no end.
        size: one in the part, for which the table was asked.
        config: for Helion; None for its default.
        fallback: name of the library function that is called instead of the kernel, or None.
    """

    low: int
    high: int | None
    size: int
    config: Mapping[str, Any] | None
    fallback: str | None

    @property
    def choice(self) -> str:
        return self.fallback or repr(sorted((self.config or {}).items(), key=str))


def find_switch(args: Sequence[Any]) -> Any:
    """The expression of symbols that decides all sizes of a call; None where there is none, or not one alone."""
    expressions = {size.node.expr for size in _list_symbolic(args)}
    symbols = {symbol for expression in expressions for symbol in expression.free_symbols}
    if len(symbols) == 1:
        return symbols.pop()
    return expressions.pop() if len(expressions) == 1 else None


def _list_symbolic(args: Sequence[Any]) -> list[torch.SymInt]:
    sizes = [size for arg in args for size in ((*arg.shape, *arg.stride()) if isinstance(arg, torch.Tensor) else (arg,))]
    return [size for size in sizes if isinstance(size, torch.SymInt) and size.node.expr.free_symbols]


def substitute(value: Any, switch: Any, size: int | None) -> Any:
    """The number that a symbolic ``value`` is where ``switch`` is ``size``, or as it was traced without a switch."""
    if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value
    if switch is not None:
        return int(value.node.expr.subs(switch, size))
    return value.node.hint


def choose_parts(kernel: KernelSpec, args: Sequence[Any], switch: Any) -> list[Part]:
    """What to use in each part of the range of ``switch``, in order; one part for all where there is no switch."""
    parts = list_parts(kernel, args, switch)
    return parts if switch is None else _settle_on_one_kind(_merge(parts), traced_size(_list_symbolic(args)[0]))


def list_parts(kernel: KernelSpec, args: Sequence[Any], switch: Any) -> list[Part]:
    """What the table has for each part of the range of ``switch``, in order."""
    if switch is None:
        return [_ask(kernel, args, None, 0, None, 0)]
    bounds = _list_symbolic(args)[0].node.shape_env.bound_sympy(switch)
    low = max(1, _number(bounds.lower) or 1)
    high = _number(bounds.upper)
    ends = sorted({size for size in _list_sizes(kernel) if low <= size < min(high or LARGEST, LARGEST)} | {high or LARGEST})
    parts: list[Part] = []
    for end in ends:
        part = _ask(kernel, args, switch, low, end, end)
        if parts and parts[-1].choice == part.choice:
            parts[-1] = replace(part, low=parts[-1].low)
        else:
            parts.append(part)
        low = end + 1
    if high is None or high > LARGEST:
        parts[-1] = replace(parts[-1], high=high)
    return parts


def _settle_on_one_kind(parts: list[Part], traced: int | None) -> list[Part]:
    """A kernel for all sizes or a library for all: what was chosen for the sizes that were traced."""
    if len({part.fallback for part in parts}) == 1:
        return parts
    here = next((part for part in parts if traced is None or part.high is None or traced <= part.high), parts[-1])
    kept = [part for part in parts if part.fallback == here.fallback]
    kept[0] = replace(kept[0], low=parts[0].low)
    for index, part in enumerate(kept[1:]):
        kept[index] = replace(kept[index], high=part.low - 1)
    kept[-1] = replace(kept[-1], high=parts[-1].high)
    return kept


def _ask(kernel: KernelSpec, args: Sequence[Any], switch: Any, low: int, high: int | None, size: int) -> Part:
    with torch.device("meta"):
        like = [
            torch.empty_strided(
                [substitute(n, switch, size) for n in arg.shape],
                [substitute(n, switch, size) for n in arg.stride()],
                dtype=arg.dtype,
            )
            if isinstance(arg, torch.Tensor)
            else substitute(arg, switch, size)
            for arg in args
        ]
    config = kernel.table.pick(kernel.case(*like), Gpu.current()).config
    return Part(low, high, size, config, (config or {}).get("fallback"))


def _merge(parts: list[Part]) -> list[Part]:
    """At most so many parts: the one that is narrowest, as a ratio, goes to the part above it while there are more."""
    while len(parts) > MOST_PARTS:
        narrowest = min(range(len(parts) - 1), key=lambda index: (parts[index].high or LARGEST) / parts[index].low)
        part = parts.pop(narrowest)
        parts[narrowest] = replace(parts[narrowest], low=part.low)
    return parts


def _list_sizes(kernel: KernelSpec) -> set[int]:
    """Sizes at which another config may begin: powers of two, and those of rows."""
    rows = kernel.table.rows(Gpu.current())
    measured = {row.case[name] for row in rows for name in kernel.configs.bucketed if name in row.case.fields}
    return {1 << power for power in range(17)} | {size for size in measured if isinstance(size, int)}


def _number(bound: Any) -> int | None:
    """The bound as a number; None for none, which torch writes as an infinity or 2**63 - 1 or a bit less."""
    try:
        number = int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return None if abs(number) >= 2**31 else number
