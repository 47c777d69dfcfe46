# SPDX-License-Identifier: Apache-2.0
"""What an operator gives on fake tensors, for the nodes that a rewrite adds.

FakeTensorMode finds that out by dispatching through a dozen layers, 0.1 ms a node.  Most of what a rewrite adds are views of
tensors whose sizes are numbers.  There PyTorch's own view on the meta device says all of it, and a fake tensor is made of
that.  An operator whose results are known in another way can say so (``RECALLERS``).
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable
from typing import Any

import torch

from helion_compile.passes.compat import (
    FakeTensor,
    FakeTensorMode,
    enable_python_dispatcher,
    in_kernel_invocation_manager,
)

__all__ = ["RECALLERS", "compute_fake", "has_plain_sizes", "make_fake"]

aten = torch.ops.aten

# Of one tensor a view, or under another shape a copy, whatever the other arguments are.
_VIEWS = frozenset(
    {
        aten.reshape.default,
        aten.view.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.permute.default,
        aten.transpose.int,
        aten.t.default,
        aten.expand.default,
        aten.slice.Tensor,
        aten.select.int,
    }
)
# target -> its result for these arguments, or None where that is not known: (mode, args, kwargs)
RECALLERS: dict[Any, Callable[[FakeTensorMode, tuple[Any, ...], dict[str, Any]], Any | None]] = {}


def compute_fake(
    mode: FakeTensorMode | None, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The fake result of ``target(*args, **kwargs)``.

    Args:
        mode: that of the fake tensors among ``args``; None where there is none.
    """
    if target is operator.getitem:
        return args[0][args[1]]
    if target in _VIEWS and not kwargs and has_plain_sizes(args[0]) and all(map(_is_plain, args[1:])):
        base = args[0]
        with in_kernel_invocation_manager(base.fake_mode):
            seen = target(*args)
        return FakeTensor(base.fake_mode, seen, base.device)
    if mode is not None and target in RECALLERS:
        known = RECALLERS[target](mode, args, kwargs)
        if known is not None:
            return known
    with mode or contextlib.nullcontext(), enable_python_dispatcher():
        return target(*args, **kwargs)


def has_plain_sizes(value: Any) -> bool:
    """Whether ``value`` is a fake tensor about which there is nothing but numbers to know: no symbols, no gradient."""
    return (
        type(value) is FakeTensor
        and value.layout is torch.strided
        and not value.requires_grad
        and value.constant is None
        and value.real_tensor is None
        and not value.is_conj()
        and not value.is_neg()
        and all(type(each) is int for each in (*value.shape, *value.stride(), value.storage_offset()))
    )


def make_fake(
    mode: FakeTensorMode, size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A new fake tensor with memory of its own."""
    with in_kernel_invocation_manager(mode):
        made = torch.empty_strided(size, stride, dtype=dtype, device="meta")
    return FakeTensor(mode, made, device)


def _is_plain(value: Any) -> bool:
    """Whether an argument is made of numbers alone."""
    return (
        value is None or type(value) is int or (isinstance(value, (list, tuple)) and all(type(each) is int for each in value))
    )
