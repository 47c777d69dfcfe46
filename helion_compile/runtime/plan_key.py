# SPDX-License-Identifier: Apache-2.0
"""The key of a launch plan: all that its compiled kernels are specialised on."""

from __future__ import annotations

import struct
from typing import Any

import torch

__all__ = ["PLAIN_TENSORS", "PLAIN_VALUES", "make_plan_key", "make_value_key"]

PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)
PLAIN_VALUES = frozenset({int, bool, str, type(None), torch.dtype})  # and float, whose zeros and NaNs need more care


def make_plan_key(args: tuple[Any, ...], addresses: list[int]) -> tuple[Any, ...]:
    """All that a plan depends on; the tensors' addresses are added to ``addresses``.

    Sizes and strides decide a kernel's integers (Triton builds in those that are 1 and knows those divisible by 16), and
    addresses its alignment (Triton asks for 16 bytes).  Scalars are built into the plan, so 1, 1.0 and True differ, and 0.0
    and -0.0.

    Raises:
        TypeError: an argument of another type than the plain ones, or a tensor that only :func:`call` may judge.
    """
    key: list[Any] = []
    watched = torch.is_grad_enabled()
    for arg in args:
        kind = type(arg)
        if kind in PLAIN_TENSORS:
            address = arg.data_ptr()
            addresses.append(address)
            if arg.is_neg() or (watched and arg.requires_grad):
                raise TypeError("a tensor that a kernel cannot read as it is")
            key += (arg.shape, arg.stride(), arg.dtype, arg.get_device(), address & 15)
        elif kind is float:
            # Zeros are equal, and a NaN differs from itself: these by their bits.
            key += (kind, arg if arg and arg == arg else struct.pack("d", arg))
        elif kind in PLAIN_VALUES:
            key += (kind, arg)
        else:
            raise TypeError(f"{kind.__name__} is no plain type")
    return tuple(key)


def make_value_key(value: Any) -> Any:
    """The value of a symbol as a part of a key: floats by their bits, as in :func:`make_plan_key`."""
    return struct.pack("d", value) if type(value) is float else value
