# SPDX-License-Identifier: Apache-2.0
"""The last step of a launch, as Python source: one call with everything but addresses and the stream looked up beforehand.

Triton's own launcher looks up hooks and scratch memory and unpacks its arguments again on every call, and triton 3.6 runs a C
compiler to make one for each signature.  torch carries a leaner one for Inductor, which takes what the driver takes.  Kernels
it cannot launch (cooperative grids, clusters) go through Triton's, and so does every launch while somebody, a profiler say,
has set launch hooks.

Only Triton's launcher can ask for PDL, so launches that do (``runtime/pdl.py``) go through it.

Private interfaces (``compat``): torch's ``StaticCudaLauncher``, and of Triton ``CompiledKernel``'s ``metadata``, ``run`` and
``launch_metadata``, ``driver.active.utils.load_binary`` and the knobs' hooks.  What the binary takes is compared with what
the driver says of it, so a changed convention is noticed before a launch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from helion_compile.runtime import pdl
from helion_compile.runtime.counters import counters

__all__ = [
    "LaunchSource",
    "Pointer",
    "UnknownInterface",
    "build_launcher",
    "define_function",
    "launch_source",
]

# (position among the kernel's parameters, index among the call's addresses, bytes to add)
Pointer = tuple[int, int, int]

# By Triton's name of a type: how torch's launcher is told the C type of a value, and the bytes it takes.
_C_TYPES = {
    "i1": ("i", 1),
    "i8": ("b", 1),
    "i16": ("h", 2),
    "i32": ("i", 4),
    "i64": ("l", 8),
    "u1": ("I", 1),
    "u8": ("B", 1),
    "u16": ("H", 2),
    "u32": ("I", 4),
    "u64": ("K", 8),
    "fp32": ("f", 4),
    "f32": ("f", 4),
    "fp64": ("d", 8),
}
_POINTER = ("O", 8)
_MOST_ARGUMENTS = 100  # torch's launcher takes 120


class UnknownInterface(Exception):
    """torch's or Triton's private interfaces are not those this was written for; the text says which."""


@dataclass(frozen=True)
class LaunchSource:
    """Statements that launch once, of the names ``stream``, ``a0``, ``a1``, … (addresses) and those in ``names``.

    Attributes:
        scratch: bytes of device memory to hand to the launch as ``scratch_name``, or 0.
    """

    lines: tuple[str, ...]
    names: dict[str, Any]
    scratch: int = 0
    scratch_name: str = ""


def define_function(name: str, parameters: Sequence[str], body: Sequence[str], names: dict[str, Any]) -> Callable[..., Any]:
    """A function of this source, which may use ``names``."""
    namespace = dict(names)
    exec(f"def {name}({', '.join(parameters)}):\n    " + "\n    ".join(body), namespace)
    return namespace[name]


def launch_source(
    number: int, compiled: Any, grid: Sequence[int], values: Sequence[Any], pointers: Sequence[Pointer]
) -> LaunchSource:
    """The launch of ``compiled``, whose binary is loaded into the current device's context.

    Args:
        number: makes its names differ from those of other launches in one function.
        compiled: Triton's CompiledKernel.
        grid: programs in x, y and z.
        values: one for each parameter of the kernel; those at the positions of ``pointers`` are ignored.
        pointers: which parameters take an address.

    Raises:
        UnknownInterface: see the module's text.
    """
    try:
        return _launch_source(f"k{number}_", compiled, grid, values, pointers)
    except (AttributeError, KeyError, ImportError, TypeError) as error:
        raise UnknownInterface(f"{type(error).__name__}: {error}") from error


def _launch_source(
    prefix: str, compiled: Any, grid: Sequence[int], values: Sequence[Any], pointers: Sequence[Pointer]
) -> LaunchSource:
    from helion_compile.compat import StaticCudaLauncher, triton_knobs

    if 0 in grid:
        return LaunchSource((), {})
    by_position = {position: f"a{index}" + (f" + {add}" if add else "") for position, index, add in pointers}
    names = {f"{prefix}v{position}": value for position, value in enumerate(values)}
    names[f"{prefix}triton"] = functools.partial(_launch_by_triton, compiled, tuple(grid))
    all_values = [by_position.get(position, f"{prefix}v{position}") for position in range(len(values))]
    by_triton = f"{prefix}triton(stream, {', '.join(all_values)})"
    types = _argument_types(compiled, by_position)
    if types is None:
        _load_by_triton(compiled)
        return LaunchSource((by_triton,), names)

    metadata = compiled.metadata
    arguments = [by_position.get(position, f"{prefix}v{position}") for position in types]
    c_types = list(types.values())
    scratch = 0
    # Triton gives kernels a pointer to each kind of scratch memory, null where they use none.
    if hasattr(metadata, "global_scratch_size"):
        scratch = metadata.global_scratch_size * grid[0] * grid[1] * grid[2]
        arguments.append(f"{prefix}scratch" if scratch else "None")
        c_types.append(_POINTER)
    if hasattr(metadata, "profile_scratch_size"):
        arguments.append("None")
        c_types.append(_POINTER)
    uses_pdl = getattr(metadata, "launch_pdl", False)
    if uses_pdl:
        _load_by_triton(compiled)  # a capture could not
    function = _load(compiled)
    _compare_with_driver(function, [size for _, size in c_types])
    hooks = [getattr(triton_knobs.runtime, name) for name in ("launch_enter_hook", "launch_exit_hook")]
    names |= {
        f"{prefix}run": StaticCudaLauncher._launch_kernel,
        f"{prefix}function": function,
        f"{prefix}compiled": compiled,
        "capturing": torch.cuda.is_current_stream_capturing,
        "pdl": pdl,
        # Lists that others add to and take from in place.
        "entering": hooks[0].calls,
        "leaving": hooks[1].calls,
    }
    codes = "".join(code for code, _ in c_types)
    head = f"{prefix}function, {', '.join(map(str, grid))}, {metadata.num_warps}, {metadata.shared}, {codes!r}"
    by_torch = f"{prefix}run({head}, ({''.join(f'{argument}, ' for argument in arguments)}), stream)"
    in_capture = (
        "elif capturing():",
        "    if pdl.follows_pdl_kernel(stream):",
        f"        {by_triton}",
        "    else:",
        f"        {by_torch}",
        "    pdl.note_pdl_kernel(stream)",
    )
    lines = (
        "if entering or leaving:",
        f"    {by_triton}",
        *(in_capture if uses_pdl else ()),
        "else:",
        f"    {by_torch}",
    )
    return LaunchSource(lines, names, scratch, f"{prefix}scratch")


def _argument_types(compiled: Any, pointers: dict[int, str]) -> dict[int, tuple[str, int]] | None:
    """Position, C type and size of each parameter the binary really has; None where only Triton's launcher will do."""
    metadata = compiled.metadata
    if getattr(metadata, "launch_cooperative_grid", False):
        return None
    if getattr(metadata, "num_ctas", 1) != 1 or getattr(metadata, "profile_scratch_size", 0):
        return None
    types = {}
    for position, (_, type_) in enumerate(compiled.src.signature.items()):
        if type_ == "constexpr":  # also integers that are 1, which Triton builds in
            continue
        if type_.startswith("*") != (position in pointers):
            return None
        if not type_.startswith("*") and type_ not in _C_TYPES:
            return None
        types[position] = _POINTER if type_.startswith("*") else _C_TYPES[type_]
    return types if len(types) <= _MOST_ARGUMENTS else None


def _launch_by_triton(compiled: Any, grid: tuple[int, ...], stream: int, *values: Any) -> None:
    """As ``triton.JITFunction.run`` does it, with the hooks of the moment."""
    from helion_compile.compat import triton_knobs

    hooks = triton_knobs.runtime.launch_enter_hook, triton_knobs.runtime.launch_exit_hook
    run = compiled.run
    about = compiled.launch_metadata(grid, stream, *values)
    run(*grid, stream, compiled.function, compiled.packed_metadata, about, *hooks, *values)


_building = threading.Lock()  # kernels of one signature share a launcher: the second finds the first's in Triton's cache


def build_launcher(compiled: Any) -> None:
    """Have Triton build its launcher now, if loading the kernel will need it; in any thread, without a CUDA context.

    What fails here fails again where the kernel is loaded, and is reported there.
    """
    if not getattr(getattr(compiled, "metadata", None), "launch_pdl", False):
        return
    from helion_compile.compat import triton_driver

    with _building, contextlib.suppress(Exception):
        triton_driver.active.launcher_cls(compiled.src, compiled.metadata)


def _load_by_triton(compiled: Any) -> None:
    counters.loaded += compiled.module is None
    compiled.run  # noqa: B018  its getter loads the binary


def _load(compiled: Any) -> int:
    """The binary's function in the current context, loaded once for each device, without Triton's launcher for it."""
    from helion_compile.compat import OutOfResources, triton_driver, triton_knobs

    device = torch.cuda.current_device()
    loaded = compiled.__dict__.setdefault("_helion_compile_functions", {})
    if device in loaded:
        return loaded[device]
    load_hooks = [getattr(triton_knobs.runtime, name) for name in ("kernel_load_start_hook", "kernel_load_end_hook")]
    if compiled.module is not None or any(hook is not None and hook.calls for hook in load_hooks):
        _load_by_triton(compiled)
        loaded[device] = compiled.function
        return compiled.function
    metadata, utils = compiled.metadata, triton_driver.active.utils
    most_shared = utils.get_device_properties(device)["max_shared_mem"]
    if metadata.shared > most_shared:
        raise OutOfResources(metadata.shared, most_shared, "shared memory")
    if (getattr(metadata, "tmem_size", None) or 0) > 0:  # Triton knows its limits
        _load_by_triton(compiled)
        loaded[device] = compiled.function
        return compiled.function
    _, function, _, _, most_threads = utils.load_binary(metadata.name, compiled.kernel, metadata.shared, device)
    if metadata.num_warps * 32 > most_threads:
        raise OutOfResources(metadata.num_warps * 32, most_threads, "threads")
    counters.loaded += 1
    loaded[device] = function
    return function


def _compare_with_driver(function: int, sizes: Sequence[int]) -> None:
    """Raise UnknownInterface if the binary does not take parameters of these sizes in bytes."""
    found = _parameter_sizes(function)
    if found is not None and found != list(sizes):
        raise UnknownInterface(f"the binary takes parameters of {found} bytes, and {list(sizes)} were expected")


def _parameter_sizes(function: int) -> list[int] | None:
    """Bytes of each parameter of a loaded function; None where the driver is too old to say (before CUDA 12.4)."""
    try:
        ask = ctypes.CDLL("libcuda.so.1").cuFuncGetParamInfo
    except (OSError, AttributeError):
        return None
    sizes: list[int] = []
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    while ask(ctypes.c_void_p(function), ctypes.c_size_t(len(sizes)), ctypes.byref(offset), ctypes.byref(size)) == 0:
        sizes.append(size.value)
    return sizes or None
