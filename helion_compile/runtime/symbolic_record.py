# SPDX-License-Identifier: Apache-2.0
"""What a host function would launch, with sizes that are not known yet: on fake tensors, whose sizes are symbols.

Generated code without Python launches by itself, so it needs what a launch plan (``record.py``) needs of a call: the outputs,
the scratch memory, and of each launch the kernel, the grid and what each parameter is.  Here these are expressions of the
graph's symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from helion_compile.runtime.host_function import NotReplayable, find_storage, flatten_result, watch_host

__all__ = ["Pointer", "SymbolicLaunch", "SymbolicRecord", "record_symbolically"]


@dataclass(frozen=True)
class Pointer:
    """A tensor that a kernel is launched on: which of the call's tensors holds it, and how it lies in that one.

    Attributes:
        index: among the tensor arguments, then the outputs, scratch and zeroed tensors.
        view: None for the whole tensor, as it is.
        offset: elements of ``view`` behind the tensor's first.
    """

    index: int
    view: torch.Tensor | None = None
    offset: Any = 0


@dataclass(frozen=True)
class SymbolicLaunch:
    """One launch: ``values`` has what each parameter of ``kernel`` is given, in order."""

    kernel: Any
    grid: tuple[Any, ...]
    values: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class SymbolicRecord:
    """What a call does: fake tensors to allocate, and launches."""

    outputs: tuple[torch.Tensor, ...]
    scratch: tuple[torch.Tensor, ...]
    zeroed: tuple[torch.Tensor, ...]
    launches: tuple[SymbolicLaunch, ...]


def record_symbolically(host: Callable[..., Any], args: tuple[Any, ...], zeroed_workspace: bool) -> SymbolicRecord:
    """What ``host(*args)`` would do.

    Args:
        args: the call's arguments; fake tensors, each with memory of its own.
        zeroed_workspace: its kernels leave zero what it makes with ``torch.zeros``.

    Raises:
        NotReplayable: the host function does more than launch, or launches in a way that only Triton itself can.
    """
    result, allocated, zeroed, launches = watch_host(host, args, zeroed_workspace)
    outputs = flatten_result(result)
    known = [find_storage(tensor) for tensor in (*args, *outputs) if isinstance(tensor, torch.Tensor)]
    made = [find_storage(tensor) for tensor in allocated]
    if len(set(known)) < len(known):
        raise NotReplayable("it returns one of its arguments, or one tensor twice")
    for output in outputs:
        if find_storage(output) not in made:
            raise NotReplayable("it returns a tensor that torch computed")
        if output._is_view():
            raise NotReplayable("it returns a part of a tensor that it allocates")
    scratch = tuple(tensor for tensor in allocated if find_storage(tensor) not in known)
    tensors = [*(arg for arg in args if isinstance(arg, torch.Tensor)), *outputs, *scratch, *zeroed]
    return SymbolicRecord(outputs, scratch, tuple(zeroed), tuple(_convert(tensors, *launch) for launch in launches))


def _convert(
    tensors: list[torch.Tensor], kernel: Any, grid: tuple[Any, ...], arguments: tuple[Any, ...], options: dict[str, Any]
) -> SymbolicLaunch:
    if len(arguments) != len(kernel.arg_names):
        raise NotReplayable(f"{kernel.__name__} is launched with keyword or default arguments")
    if options.get("launch_cooperative_grid"):
        raise NotReplayable(f"{kernel.__name__} is launched as a cooperative grid")
    if options.get("num_ctas", 1) != 1:
        raise NotReplayable(f"{kernel.__name__} is launched in clusters")
    if options.get("ptx_options") is not None:
        raise NotReplayable(f"{kernel.__name__} is compiled with options for ptxas")
    values = tuple(_locate(each, tensors) if isinstance(each, torch.Tensor) else each for each in arguments)
    if any(isinstance(each, torch.SymFloat) for each in values):
        raise NotReplayable(f"{kernel.__name__} takes a number that the graph does not fix")
    return SymbolicLaunch(kernel, (*grid, 1, 1)[:3], values, options)


def _locate(tensor: torch.Tensor, tensors: list[torch.Tensor]) -> Pointer:
    for index, whole in enumerate(tensors):
        if find_storage(tensor) == find_storage(whole):
            if tensor.dtype == whole.dtype and _is_zero(tensor.storage_offset()):
                return Pointer(index)  # an address is all that a launch takes
            return Pointer(index, tensor, tensor.storage_offset())
    raise NotReplayable("it launches on a tensor that is neither argument, output nor freshly allocated")


def _is_zero(offset: int | torch.SymInt) -> bool:
    return isinstance(offset, int) and offset == 0
