# SPDX-License-Identifier: Apache-2.0
"""Launch plans: what a call with these shapes does, recorded once and replayed.

A plan is made by running Helion's generated host function once with a launcher that only takes notes, on the real
arguments.  It keeps which outputs to allocate, the compiled Triton kernels, their grids, and where each pointer comes from;
sizes, strides and other scalars are fixed by the plan's key.  A host function that does what this cannot explain (a torch
operation that computes) gets no plan, and is called as it is.

Private interfaces (``compat``): ``JITFunction.run(warmup=True)`` of Triton, and two of torch's; where torch lacks these, their
slower public equals are used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from helion_compile import compat
from helion_compile.definitions.overlap import Layout, MeetingRange
from helion_compile.runtime import zeroed_workspace
from helion_compile.runtime.host_function import (
    NotReplayable,
    RecordedLaunch,
    find_storage,
    flatten_result,
    watch_host,
)
from helion_compile.runtime.pdl import waits_for_previous
from helion_compile.runtime.triton_launch import LaunchSource, UnknownInterface, define_function, launch_source

__all__ = [
    "Buffer",
    "NotReplayable",
    "Plan",
    "RecordedLaunch",
    "allocate",
    "compile_launch",
    "list_launches",
    "record_plan",
]


def _allocate_publicly(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype, device="cuda")


def _stream_publicly(device: int) -> int:
    return torch.cuda.current_stream(device).cuda_stream


# Twice as fast as their public equals: no argument parsing, no Stream object.
empty_strided_cuda = compat.find_name("allocate_cuda", _allocate_publicly)
current_stream = compat.find_name("get_raw_stream", _stream_publicly)


@dataclass(frozen=True)
class Buffer:
    """An output or scratch tensor to allocate: sizes and strides in elements."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Buffer:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` is such a buffer."""
        return self == Buffer.of(tensor)


@dataclass(frozen=True)
class Plan:
    """Replays one call.  Addresses are numbered: the call's tensor arguments, then outputs, then scratch.

    Both functions launch on the current stream of ``device``, which has to be the current device.

    Attributes:
        index: the device's.
        call: takes the addresses of the tensor arguments, allocates the outputs, and returns what the host function does.
        launch: takes the addresses of the tensor arguments and of the outputs.
        body, names: the source of ``launch`` and what it names, for functions that take the addresses another way.
        apart: which tensors must lie apart, where the kernel writes to its arguments.
    """

    index: int
    outputs: tuple[Buffer, ...]
    call: Callable[..., Any]
    launch: Callable[..., None]
    body: tuple[str, ...]
    names: dict[str, Any]
    apart: tuple[MeetingRange, ...] = ()

    def may_overlap(self, addresses: Sequence[int]) -> bool:
        """Whether tensors that must lie apart might not: interleaved ones may, by their addresses."""
        for one, other, before, after in self.apart:  # twice as fast as any()
            if before < addresses[other] - addresses[one] < after:
                return True
        return False


def _plan(
    device: torch.device,
    inputs: int,
    outputs: tuple[Buffer, ...],
    scratch: tuple[Buffer, ...],
    zeroed: int,
    result: Any,
    launches: Any,
) -> Plan:
    """
    Args:
        zeroed: how many of ``scratch``, the last, have to be zero.
        result: what the host function returned.
        launches: a LaunchSource for each launch.
    """
    first = inputs + len(outputs)
    names = {"empty": empty_strided_cuda, "current_stream": current_stream}
    body = [f"stream = current_stream({device.index})"]
    for index, buffer in enumerate(scratch[: len(scratch) - zeroed], start=first):
        body += _allocation(index, buffer, names)
    body += _zeroed(device.index, first + len(scratch) - zeroed, scratch[len(scratch) - zeroed :], names)
    for number, launch in enumerate(launches):
        names |= launch.names
        if launch.scratch:
            # Blocks of torch's allocator are aligned to 512 bytes, more than a kernel asks of its scratch memory.
            body += _allocation(f"s{number}", Buffer((launch.scratch,), (1,), torch.uint8), names)
            body.append(f"{launch.scratch_name} = as{number}")
        body += launch.lines
    parameters = [f"a{index}" for index in range(first)]
    allocations = [line for n, buffer in enumerate(outputs, start=inputs) for line in _allocation(n, buffer, names)]
    results = [f"t{index}" for index in range(inputs, first)]
    if isinstance(result, tuple):
        value = f"({''.join(f'{name}, ' for name in results)})"
    else:
        value = results[0] if results else "None"
    return Plan(
        index=device.index,
        outputs=outputs,
        call=define_function("call", parameters[:inputs], [*allocations, *body, f"return {value}"], names),
        launch=define_function("launch", parameters, body, names),
        body=tuple(body),
        names=names,
    )


def _allocation(index: Any, buffer: Buffer, names: dict[str, Any]) -> list[str]:
    names[f"b{index}"] = (buffer.shape, buffer.stride, buffer.dtype)
    return [f"t{index} = empty(*b{index})", f"a{index} = t{index}.data_ptr()"]


def _zeroed(device: int, first: int, buffers: tuple[Buffer, ...], names: dict[str, Any]) -> list[str]:
    """Addresses, from ``first`` on, in the memory that kernels leave zero."""
    lines, size = [], 0
    for index, buffer in enumerate(buffers, start=first):
        lines.append(f"a{index} = zeros + {size}")
        size += -(-allocate(buffer).nbytes // zeroed_workspace.ALIGNMENT) * zeroed_workspace.ALIGNMENT
    if not size:
        return ["zeros = 0", *lines] if lines else []
    names["zeros_for"] = functools.partial(zeroed_workspace.get_zeros, device, size)
    return ["zeros = zeros_for(stream)", *lines]


def allocate(buffer: Buffer) -> torch.Tensor:
    """An uninitialised tensor on the current device."""
    return empty_strided_cuda(buffer.shape, buffer.stride, buffer.dtype)


def record_plan(host: Callable[..., Any], args: tuple[Any, ...], zeroed_workspace: bool = False) -> Plan:
    """The plan of ``host(*args)``; compiles its Triton kernels and launches nothing.

    Args:
        host: Helion's generated host function for one config; it takes the launcher as ``_launcher``.
        args: the call's arguments, CUDA tensors among them, on the current device.
        zeroed_workspace: its kernels leave zero what it makes with ``torch.zeros``; see ``zeroed_workspace``.

    Raises:
        NotReplayable: the call cannot be replayed from its inputs and outputs.
    """
    args = _with_own_storage(args)
    result, allocated, zeroed, launches = watch_host(host, args, zeroed_workspace)
    outputs = flatten_result(result)
    inputs = [arg for arg in args if isinstance(arg, torch.Tensor)]
    storages = [find_storage(tensor) for tensor in (*inputs, *outputs)]
    if len(set(storages)) < len(storages):
        raise NotReplayable("it returns one of its arguments, or one tensor twice")
    for output in outputs:
        if output.storage_offset() or output.untyped_storage().nbytes() != Layout.of(output).span:
            raise NotReplayable("it returns a part of a tensor that it allocates")
        if not any(find_storage(output) == find_storage(tensor) for tensor in allocated):
            raise NotReplayable("it returns a tensor that torch computed")
    scratch = [tensor for tensor in allocated if find_storage(tensor) not in storages]
    tensors = [*inputs, *outputs, *scratch, *zeroed]
    return _plan(
        device=inputs[0].device,
        inputs=len(inputs),
        outputs=tuple(map(Buffer.of, outputs)),
        scratch=tuple(map(Buffer.of, (*scratch, *zeroed))),
        zeroed=len(zeroed),
        result=result,
        launches=[_make_source(number, tensors, *entry) for number, entry in enumerate(launches)],
    )


def list_launches(host: Callable[..., Any], args: tuple[Any, ...], zeroed_workspace: bool = False) -> list[RecordedLaunch]:
    """What ``host(*args)`` would launch.

    Raises:
        NotReplayable: the host function does more than launch.
    """
    return watch_host(host, _with_own_storage(args), zeroed_workspace)[-1]


def compile_launch(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Triton's CompiledKernel, with the options that Helion's own launcher gives, and PDL for one that waits."""
    options = {"launch_cooperative_grid": False, **options}
    if waits_for_previous(kernel):
        options["launch_pdl"] = True
    if options.get("ptx_options", "") is None:  # None would override what the environment says
        del options["ptx_options"]
    return kernel.run(*arguments, grid=grid, warmup=True, **options)


def _with_own_storage(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """``args``, where tensors that share memory with an earlier one are replaced by stand-ins of the same layout.

    In a later call they may be apart; only with memory of its own can each pointer be traced to its argument.
    """
    seen: set[int] = set()
    own = []
    for arg in args:
        if isinstance(arg, torch.Tensor):
            if find_storage(arg) in seen:
                shift = arg.data_ptr() % 16
                memory = torch.empty(Layout.of(arg).span + shift, dtype=torch.uint8, device=arg.device)
                arg = memory[shift:].view(arg.dtype).as_strided(arg.shape, arg.stride())
            seen.add(find_storage(arg))
        own.append(arg)
    return tuple(own)


def _make_source(
    number: int,
    tensors: list[torch.Tensor],
    kernel: Any,
    grid: tuple[int, ...],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> LaunchSource:
    if len(arguments) != len(kernel.arg_names):
        raise NotReplayable(f"{kernel.__name__} is launched with keyword or default arguments")
    values: list[Any] = []
    pointers = []
    for position, argument in enumerate(arguments):
        if isinstance(argument, torch.Tensor):
            index, offset = _locate(argument, tensors)
            pointers.append((position, index, offset))
            values.append(0)
        elif isinstance(argument, (int, float, bool, str, type(None), torch.dtype)):
            values.append(argument)
        else:
            raise NotReplayable(f"{kernel.__name__} takes a {type(argument).__name__}")
    compiled = compile_launch(kernel, grid, arguments, options)
    if hasattr(compiled, "result"):  # compiled in the background
        compiled = compiled.result()
    try:
        return launch_source(number, compiled, (*grid, 1, 1)[:3], values, pointers)
    except UnknownInterface as error:
        raise NotReplayable(
            f"torch {torch.__version__} and its Triton are not what launch plans were written for ({error}); they were "
            f"tested with torch {', '.join(compat.TORCH)}"
        ) from error


def _locate(tensor: torch.Tensor, tensors: list[torch.Tensor]) -> tuple[int, int]:
    """Which of ``tensors`` holds this one's memory, and how many bytes into it."""
    for index, known in enumerate(tensors):
        if find_storage(tensor) == find_storage(known):
            return index, tensor.data_ptr() - known.data_ptr()
    raise NotReplayable("it launches on a tensor that is neither argument, output nor freshly allocated")
