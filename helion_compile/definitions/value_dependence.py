# SPDX-License-Identifier: Apache-2.0
"""While a graph is traced tensors have no values: what a kernel's functions may not ask of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, free_unbacked_symbols

from helion_compile.compat import DataDependentOutputException, DynamicOutputShapeException, FakeTensor

__all__ = ["check_known_sizes", "forbid_values"]

_ASKS_FOR_VALUES = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)


@contextlib.contextmanager
def forbid_values(what: str, args: Sequence[Any]) -> Iterator[None]:
    """Within it, ``what`` may read numbers off tensors, which are unknown then, but decide nothing by them.

    Raises:
        TypeError: a size or a branch depends on values.
    """
    env = next((arg.fake_mode.shape_env for arg in args if isinstance(arg, FakeTensor)), None)
    try:
        # What stands for a number that was read is no result, and torch would miss it there.
        with env.ignore_fresh_unbacked_symbols() if env is not None else contextlib.nullcontext():
            yield
    except _ASKS_FOR_VALUES as error:
        raise TypeError(
            f"{what} depends on the values of its arguments, which have none while a graph is traced: {_first_line(error)}. "
            f"Decide by shapes, strides, dtypes and numbers alone."
        ) from error


def check_known_sizes(what: str, results: Sequence[torch.Tensor], args: Sequence[Any]) -> None:
    """Raise TypeError for a result with a size that no size or number among ``args`` has."""
    known = set().union(*(free_unbacked_symbols(arg) for arg in args if isinstance(arg, (torch.Tensor, torch.SymInt))))
    for index, result in enumerate(results):
        if free_unbacked_symbols(result) - known:
            raise TypeError(
                f"{what} gives a result whose size depends on values: result {index} is of shape {list(result.shape)}. "
                f"A kernel's outputs are made before it runs: return one of the largest size, and how much of it counts."
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
