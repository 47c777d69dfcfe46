# SPDX-License-Identifier: Apache-2.0
"""What the kernels that work row by row share: which tensors they take, and how they read and write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import helion.language as hl
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.configs.case import Case

__all__ = [
    "FLOATS",
    "view_as_row",
    "view_by_group",
    "find_dtype",
    "load_tile",
    "expand_to_rows",
    "drop_missing",
    "check_scalar",
    "check_rows",
    "store_tile",
]

FLOATS = (torch.bfloat16, torch.float16, torch.float32)  # what kernels take of activations and give back
Tile: TypeAlias = torch.Tensor | Sequence[torch.Tensor]  # what hl.tile gives in a kernel

MAX_ROW = 65536  # elements: the whole row is held in registers


def check_rows(step: int = 1, /, **tensors: torch.Tensor | None) -> str | None:
    """Why these tensors [M, K], or [K] for weights, cannot be taken row by row, as a sentence; None if they can.

    ``step`` is the widest step from one element of a row to the next.
    """
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype not in FLOATS:
            return f"{name} is {_text(tensor.dtype)}; it takes {', '.join(map(_text, FLOATS))}"
        if tensor.stride(-1) not in range(1, step + 1):
            return (
                f"the last dimension of {name} is not contiguous (strides {tuple(tensor.stride())}); "
                f"call .contiguous() on it before"
            )
        if isinstance(tensor.size(-1), torch.SymInt):
            return f"the last dimension of {name} has a symbolic size; mark it static"
        if (
            tensor.dim() == 2
            and statically_known_true(_reach(tensor) >= 2**31)
            and statically_known_true(tensor.numel() < 2**31)
        ):
            return (
                f"{name} reaches {_reach(tensor)} elements into memory with {tensor.numel()} of its own (strides "
                f"{tuple(tensor.stride())}), and Helion chooses 32-bit offsets by the latter; call .contiguous() on it before"
            )
        if tensor.size(-1) > MAX_ROW:
            return f"a row of {name} has {tensor.size(-1)} elements, more than {MAX_ROW}"
    return None


def check_scalar(**tensors: torch.Tensor | None) -> str | None:
    """Why these tensors cannot be taken as one number of fp32, as a sentence; None if they can."""
    for name, tensor in tensors.items():
        if tensor is not None and (tensor.dtype != torch.float32 or not statically_known_true(tensor.numel() == 1)):
            shape = list(tensor.shape)
            return f"{name} is {_text(tensor.dtype)} {shape}; the kernel takes one element of float32"
    return None


def view_as_row(vector: torch.Tensor | None) -> torch.Tensor | None:
    """[K] as [1, K]."""
    return None if vector is None else vector.view(1, vector.size(0))


def view_by_group(rows: torch.Tensor | None, group: int | None) -> torch.Tensor | None:
    """[M, K] as [M, K / group, group], or as it is without a group."""
    return rows if rows is None or group is None else rows.view(rows.size(0), rows.size(1) // group, group)


def expand_to_rows(number: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor | None:
    """A tensor of one element seen as one for each of ``rows`` [M, ...]: [M, 1, ...]."""
    return None if number is None else number.as_strided([rows.size(0)] + [1] * (rows.dim() - 1), [0] * rows.dim())


def load_tile(tensor: torch.Tensor | None, tile: Tile) -> torch.Tensor | None:
    """In a kernel: this tile of [M, ...], whole in the dimensions that it does not name, as fp32; None of None."""
    return None if tensor is None else hl.load(tensor, _index(tensor, tile)).to(torch.float32)


def store_tile(tensor: torch.Tensor | None, tile: Tile, values: torch.Tensor | None) -> None:
    """In a kernel: write this tile of [M, ...]; nothing where there is no tensor."""
    if tensor is not None:
        hl.store(tensor, _index(tensor, tile), values)


def _index(tensor: torch.Tensor, tile: Tile) -> list[object]:
    """One tile is of rows; of several the second is of columns, or of groups."""
    named = [*tile] if isinstance(tile, (list, tuple)) else [tile]
    return [*named, *[slice(None)] * (tensor.dim() - len(named))]


def drop_missing(*results: torch.Tensor | None) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """What a kernel returns: those results that there are, a single one by itself."""
    found = tuple(result for result in results if result is not None)
    return found if len(found) > 1 else found[0]


def find_dtype(case: Case) -> torch.dtype:
    """The dtype that a case names: the inverse of how :class:`Case` shortens it."""
    return next(dtype for dtype in FLOATS if Case(dtype=dtype)["dtype"] == case["dtype"])


def _reach(tensor: torch.Tensor) -> int:
    """Elements from the first to the last of [M, K], including those in between that are not its own."""
    return (tensor.size(0) - 1) * tensor.stride(0) + tensor.size(1)


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
