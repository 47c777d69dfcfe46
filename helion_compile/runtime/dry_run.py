# SPDX-License-Identifier: Apache-2.0
"""Noting which calls would need a new plan, instead of making it: how a warm-up learns what to compile.

In a dry run such calls give their reference's result, so that a model runs through with right values.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["PlanRequest", "collect_plan_requests", "note_plan_request"]

_mode = threading.local()


@dataclass(frozen=True)
class Layout:
    """What a plan depends on of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    offset: int  # bytes past a multiple of 16

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Layout:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.data_ptr() % 16)

    def tensor(self) -> torch.Tensor:
        """Uninitialised memory laid out like this."""
        size = torch.empty(0, dtype=self.dtype).element_size()
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        memory = torch.empty((last + 1) * size + self.offset, dtype=torch.uint8, device=self.device)
        return memory[self.offset :].view(self.dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class PlanRequest:
    """A call that needs a plan.

    Attributes:
        store, key: where the plan belongs; see ``call_target.make_call_target``.
        outputs: how many tensors generated code gives it to fill, or None.
    """

    kernel: KernelSpec
    arguments: tuple[Any, ...]
    store: Any
    key: Any
    outputs: tuple[Layout, ...] | None

    @property
    def device(self) -> torch.device:
        return next(arg.device for arg in self.arguments if isinstance(arg, Layout))

    def make_args(self) -> tuple[Any, ...]:
        """Arguments like those of the call; tensors with memory of their own."""
        return tuple(arg.tensor() if isinstance(arg, Layout) else arg for arg in self.arguments)

    def make_outputs(self) -> tuple[torch.Tensor, ...] | None:
        return None if self.outputs is None else tuple(layout.tensor() for layout in self.outputs)


@contextlib.contextmanager
def collect_plan_requests(found: Callable[[PlanRequest], None]) -> Iterator[None]:
    """Within it, in this thread, a call that needs a new plan calls ``found`` with a request, and runs its reference."""
    before = getattr(_mode, "found", None)
    _mode.found = found
    try:
        yield
    finally:
        _mode.found = before


def note_plan_request(
    kernel: KernelSpec,
    args: tuple[Any, ...],
    store: Any,
    key: Any,
    outputs: tuple[torch.Tensor, ...] | None = None,
) -> bool:
    """Whether calls are only noted at the moment; this one now is."""
    found = getattr(_mode, "found", None)
    if found is None:
        return False
    arguments = tuple(Layout.of(arg) if isinstance(arg, torch.Tensor) else arg for arg in args)
    layouts = None if outputs is None else tuple(map(Layout.of, outputs))
    found(PlanRequest(kernel, arguments, store, key, layouts))
    return True
