# SPDX-License-Identifier: Apache-2.0
"""Where nothing is launched: on devices without the kernel, and for empty tensors, its ``reference`` runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from helion_compile.definitions.validation import name_arguments

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["find_device", "lacks_kernel", "needs_reference", "run_reference"]


def find_device(args: Sequence[Any]) -> torch.device:
    """The device of the first tensor."""
    return next(arg.device for arg in args if isinstance(arg, torch.Tensor))


def lacks_kernel(args: Sequence[Any]) -> bool:
    """Whether no tensor is on a device that runs kernels."""
    return not any(arg.is_cuda for arg in args if isinstance(arg, torch.Tensor))


def needs_reference(args: Sequence[Any]) -> bool:
    """Whether there is nothing to launch on: no GPU, or no element."""
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    return not tensors or any(not tensor.is_cuda or tensor.numel() == 0 for tensor in tensors)


def run_reference(kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    """What the kernel's ``reference`` gives; the kernel has no gradient, and neither has this."""
    try:
        with torch.no_grad():
            return kernel.reference(*args)
    except (AttributeError, IndexError, KeyError, TypeError):
        with name_arguments(kernel.short_name, kernel.signature, args, "reference cannot take"):
            raise
