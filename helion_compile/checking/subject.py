# SPDX-License-Identifier: Apache-2.0
"""What is checked: a kernel and the arguments of one call, which every step gets as copies of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from helion_compile.checking.comparing import Tolerance
from helion_compile.definitions.spec import KernelSpec
from helion_compile.helion_kernel import HelionKernel
from helion_compile.runtime.reference import find_device

__all__ = ["Subject", "copy_arguments", "find_undeclared_writes", "resize"]


@dataclass
class Subject:
    """
    Attributes:
        tolerance: how far values may differ.
        on_gpu: whether the kernel is launched; otherwise Helion's interpreter runs its body.
        names: the kernel's parameters.
        expected: the reference's results and written arguments; None where it has none.
        bound: Helion's view of the kernel with these arguments; None before its code is made.
    """

    kernel: HelionKernel
    args: tuple[Any, ...]
    tolerance: Tolerance
    on_gpu: bool
    expected: tuple[torch.Tensor, ...] | None = None
    bound: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.kernel.signature.parameters)

    @property
    def device(self) -> torch.device:
        return find_device(self.args)

    @functools.cached_property
    def larger(self) -> tuple[str, tuple[Any, ...]] | None:
        """The arguments with another size, and what it is; None where the kernel takes no other that can be found.

        The other size is that of a tensor's first dimension, in all arguments that have it.
        """
        sizes = [arg.size(0) for arg in self.args if isinstance(arg, torch.Tensor) and arg.dim() and arg.size(0)]
        for size in dict.fromkeys(sizes):
            larger = resize(self.args, size)
            if self.takes(larger):
                return f"{2 * size} where the call has {size}", larger
        return None

    @functools.cached_property
    def transposed(self) -> tuple[Any, ...] | None:
        """The arguments with the last two dimensions exchanged in memory; None where the kernel takes no such ones."""
        given = tuple(_transpose(arg) if isinstance(arg, torch.Tensor) else arg for arg in self.args)
        changed = any(one is not other for one, other in zip(given, self.args, strict=True))
        return given if changed and self.takes(given) else None

    def takes(self, args: tuple[Any, ...]) -> bool:
        """Whether the kernel takes arguments that its author may not have thought of, and that may not fit one another."""
        try:
            if self.kernel.check_supported(*args) is not None:
                return False
            self.kernel.reference(*copy_arguments(args))
            return True
        except Exception:
            return False

    def results_of(self, value: Any, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        """Results and written arguments, flat: all that a graph sees of a call."""
        return (*self.kernel.flatten_results(value), *self.kernel.select_mutated(args))

    def name_result(self, index: int) -> str:
        """What the result of that place in :meth:`results_of` is called."""
        written = [name for name in self.kernel.mutates if self.args[self.names.index(name)] is not None]
        results = len(self.expected or ()) - len(written)
        if index >= results and self.expected is not None:
            return f"the written argument {written[index - results]!r}"
        return "the result" if results == 1 else f"result {index}"


def copy_arguments(args: Sequence[Any]) -> tuple[Any, ...]:
    """Copies with the strides, offsets and shared memory that the originals have."""
    storages: dict[int, torch.UntypedStorage] = {}

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in storages:
            storages[place] = storage.clone()
        empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return empty.set_(storages[place], tensor.storage_offset(), tensor.size(), tensor.stride())

    return tuple(copy(arg) if isinstance(arg, torch.Tensor) else arg for arg in args)


def find_undeclared_writes(kernel: KernelSpec, before: Sequence[Any], after: Sequence[Any]) -> list[str]:
    """Names of the arguments that differ, and that neither ``mutates`` names nor share memory with one that it names."""
    written = {arg.untyped_storage().data_ptr() for arg in kernel.select_mutated(tuple(after))}
    return [
        name
        for name, one, other in zip(kernel.signature.parameters, before, after, strict=True)
        if isinstance(one, torch.Tensor) and other.untyped_storage().data_ptr() not in written and not _same_bits(one, other)
    ]


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    # Through bytes: NaN differs from itself.
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))


def _transpose(tensor: torch.Tensor) -> torch.Tensor:
    """The same values [..., m, n], with m as the dimension whose elements lie side by side."""
    if tensor.dim() < 2 or 1 in tensor.shape[-2:] or not tensor.numel():
        return tensor
    return tensor.mT.contiguous().mT


def resize(args: Sequence[Any], size: int) -> tuple[Any, ...]:
    """The arguments with each dimension of ``size`` twice as long, its values repeated; memory in the same order."""

    def double(tensor: torch.Tensor) -> torch.Tensor:
        order = sorted(range(tensor.dim()), key=lambda dim: (-tensor.stride(dim), dim))
        back = [order.index(dim) for dim in range(tensor.dim())]
        longer = tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor  # torch joins no fp8
        for dim in [dim for dim, length in enumerate(tensor.shape) if length == size]:
            longer = torch.cat([longer, longer], dim)
        return longer.permute(order).contiguous().permute(back).view(tensor.dtype)

    return tuple(double(arg) if isinstance(arg, torch.Tensor) and size in arg.shape else arg for arg in args)
