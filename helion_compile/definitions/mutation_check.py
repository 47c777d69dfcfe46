"""Checked mode: a kernel that writes to an argument it does not declare is found out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from helion_compile.errors import UndeclaredMutationError

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["checked", "is_checking", "watch_arguments"]

_mode = threading.local()


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Within it, every eager call compares its arguments before and after and reports writes that were not declared.

    Slow: each tensor argument is copied.

    Raises:
        UndeclaredMutationError: from the call that wrote to an argument which ``mutates`` does not name.
    """
    before = is_checking()
    _mode.on = True
    try:
        yield
    finally:
        _mode.on = before


def is_checking() -> bool:
    return getattr(_mode, "on", False)


@contextlib.contextmanager
def watch_arguments(kernel: KernelSpec, args: tuple[Any, ...]) -> Iterator[None]:
    """Raise UndeclaredMutationError if a tensor among ``args`` changes within, unless ``kernel`` declares it as written."""
    copies = {
        name: (arg, arg.clone())
        for name, arg in zip(kernel.signature.parameters, args, strict=True)
        if isinstance(arg, torch.Tensor) and name not in kernel.mutates
    }
    yield
    for name, (arg, copy) in copies.items():
        if not _same_bits(arg, copy):
            raise UndeclaredMutationError(
                f"{kernel.short_name} wrote to its argument {name!r}, and mutates={kernel.mutates!r} does not name it: "
                f"compiled graphs would reorder or drop that write. Add {name!r} to mutates, or write to a tensor of its own."
            )


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    # Through bytes: NaN differs from itself.
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
