# SPDX-License-Identifier: Apache-2.0
"""What a host function does besides launching, watched while it runs with a launcher that only takes notes.

Helion generates it around its Triton kernels.  It may allocate, and make views; what computes is found here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from helion_compile.compat import TorchDispatchMode

__all__ = ["NotReplayable", "RecordedLaunch", "find_storage", "flatten_result", "watch_host"]


class NotReplayable(Exception):
    """The host function does something that a plan cannot replay; the text says what."""


# What a host function launched: Triton's kernel, the grid, its arguments, Triton's options.
RecordedLaunch = tuple[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]]


def watch_host(
    host: Callable[..., Any], args: tuple[Any, ...], zeroed_workspace: bool
) -> tuple[Any, list[torch.Tensor], list[torch.Tensor], list[RecordedLaunch]]:
    """What the host function returns, allocates, makes of zeros and launches."""
    launches: list[RecordedLaunch] = []

    def note_launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        launches.append((kernel, grid, arguments, options))

    with _OnlyAllocates(zeroed_workspace) as watched:
        result = host(*args, _launcher=note_launch)
    return result, watched.allocated, watched.zeroed, launches


def find_storage(tensor: torch.Tensor) -> int:
    """What tells the memory of two tensors apart."""
    return tensor.untyped_storage()._cdata


def flatten_result(result: Any) -> tuple[torch.Tensor, ...]:
    """The tensors that a host function returned.

    Raises:
        NotReplayable: it returned other things.
    """
    if result is None:
        return ()
    if isinstance(result, torch.Tensor):
        return (result,)
    if isinstance(result, tuple) and all(isinstance(item, torch.Tensor) for item in result):
        return result
    raise NotReplayable(f"it returns {type(result).__name__} of other things than tensors")


class _OnlyAllocates(TorchDispatchMode):
    """Lets a host function allocate and make views; anything else would compute outside the recorded launches."""

    def __init__(self, zeros_too: bool) -> None:
        super().__init__()
        self.zeros_too = zeros_too
        self.allocated: list[torch.Tensor] = []
        self.zeroed: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten" and func._schema.name.removeprefix("aten::") in _ALLOCATIONS:
            self.allocated.append(out)
        elif self.zeros_too and func is torch.ops.aten.zeros.default:
            self.zeroed.append(out)
        elif not func.is_view and func._schema.name not in _QUESTIONS:
            raise NotReplayable(f"its host function calls {func}")
        return out


_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
# Which fake tensors send through a mode.
_QUESTIONS = {
    "prim::device",
    "prim::layout",
    *(f"aten::{name}" for name in ("dim", "size", "stride", "numel", "storage_offset", "is_contiguous")),
    *(f"aten::sym_{name}" for name in ("size", "stride", "numel", "storage_offset", "is_contiguous")),
}
