# SPDX-License-Identifier: Apache-2.0
"""What Helion's compiled code may take for granted of a call, beyond what Helion itself tells apart."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["forget_process_groups", "sizes_that_are_one"]


def sizes_that_are_one(*args: Any) -> tuple[tuple[bool, ...], ...]:
    """A part of Helion's key for compiled code.

    Helion keeps one compilation for sizes of one and more, and tracing broadcasts takes a size of one for granted: code that
    was first made for one row would then serve many, and compute one.  So do the rows of one batch, where an argument
    [M, K] has as many rows as another [B, K] has batches.
    """
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    first = tensors[0].shape if tensors else torch.Size()

    def is_row_a_batch(shape: torch.Size) -> bool:
        # A weight [N, K] that happens to have as many rows as x would only be traced once more.
        return len(shape) == len(first) == 2 and shape[1] == first[1] and shape[0] == first[0]

    return tuple((*(size == 1 for size in each.shape), is_row_a_batch(each.shape)) for each in tensors)


def forget_process_groups(kernel: Any) -> None:
    """Have Helion compile ``kernel`` in a process of many ranks as anywhere else, unless it names a process group.

    Where torch cannot tell symmetric memory (2.11), Helion takes every kernel for a distributed one once there is a default
    process group, and there always is one in vLLM: it warns at each binding and allows persistent grids only.
    """
    from helion_compile.compat import symmetric_memory

    declared = kernel.settings.distributed or getattr(kernel, "_declares_process_group", True)
    if not declared and not hasattr(symmetric_memory, "is_symm_mem_tensor"):
        kernel._compute_is_distributed = lambda *args, **kwargs: False
