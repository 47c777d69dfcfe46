# SPDX-License-Identifier: Apache-2.0
"""Compiling a config for a GPU, in a process that need not have one.

Helion makes code from CPU tensors, and Triton compiles for a GPU that it is told of, so the CPU cores can fill Triton's
cache while another process measures; there, nothing is compiled again.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from helion_compile.configs.case import Case
from helion_compile.definitions import registry
from helion_compile.definitions.spec import KernelSpec
from helion_compile.runtime.record import compile_launch

__all__ = [
    "SHIPPED_TARGETS",
    "Compiled",
    "Compiler",
    "Target",
    "compile_config",
    "inputs_without_values",
    "pretend",
    "representative",
]


class Target(NamedTuple):
    """The GPU to compile for: compute capability as Triton writes it (90), and its number of multiprocessors."""

    capability: int
    multiprocessors: int


# Of the GPUs that have shipped tables; a persistent grid's size is part of its code.
SHIPPED_TARGETS = {"nvidia_h200": Target(90, 132)}


class Compiled(NamedTuple):
    """A config's generated module and what the compiler says of its kernel, or why there is none.

    Attributes:
        source, entry: text of the module, and the name of its host function; see :meth:`fallback`.
        spills: bytes a thread spills to local memory.
    """

    source: str
    entry: str
    registers: int = 0
    spills: int = 0
    shared: int = 0
    error: str | None = None

    @classmethod
    def fallback(cls, name: str) -> Compiled:
        """Stands for one of the kernel's fallbacks, which need no compiling: without code, its name is the entry."""
        return cls("", name)


@functools.cache
def pretend(target: Target) -> None:
    """From now on Triton and Helion believe that this process has such a GPU."""
    from helion_compile.compat import GPUTarget, helion_runtime, triton_driver

    stand_in = _absent(GPUTarget("cuda", target.capability, 32))
    triton_driver.set_active(stand_in)
    helion_runtime.get_num_sm = lambda device, **_: target.multiprocessors


@functools.cache
def _absent(gpu: Any) -> Any:
    from helion_compile.compat import DriverBase

    class Absent(DriverBase):
        """Answers what the compiler asks of a driver, and cannot launch."""

        def __init__(self) -> None:
            pass

        @classmethod
        def is_active(cls) -> bool:
            return True

        def get_current_target(self) -> Any:
            return gpu

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int = 0) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_benchmarker(self) -> Any:
            raise RuntimeError("there is no GPU to measure on")

    Absent.__abstractmethods__ = frozenset()  # which methods are abstract differs between versions of Triton
    return Absent()


def representative(case: Case, rounded: Sequence[str]) -> Case:
    """The smallest case that gives the same machine code: Triton specialises an integer on being 1 or a multiple of 16."""
    sizes: dict[str, Any] = {name: case[name] for name in rounded if name in case}
    return case.replace(**{name: 1 if size == 1 else 16 if size % 16 == 0 else 2 for name, size in sizes.items()})


def inputs_without_values(kernel: KernelSpec, case: Case) -> tuple[Any, ...]:
    """CPU tensors like those that the kernel's inputs are, of memory that nobody has touched.

    To fill the weight of a large product takes a second, in each process and for each kind of case.
    """
    with torch.device("meta"):
        args = kernel.tuning.make_inputs(case, torch.device("meta"))
    return tuple(torch.empty_like(arg, device="cpu") if isinstance(arg, torch.Tensor) else arg for arg in args)


@functools.lru_cache(8)
def _bound(name: str, case: Case) -> tuple[Any, tuple[Any, ...]]:
    kernel = registry.get_kernel(name)
    args = inputs_without_values(kernel, case)
    return kernel.helion.bind(args), args


class Compiler:
    """What the processes of a :class:`CompilePool` answer with."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def compile(self, target: Target, name: str, fields: Mapping[str, Any], config: Mapping[str, Any]) -> Compiled:
        return compile_config(target, name, fields, config)


def compile_config(target: Target, name: str, fields: Mapping[str, Any], config: Mapping[str, Any]) -> Compiled:
    """Generate and compile for ``target``, into Triton's cache.

    Where Helion or Triton refuses the config, the result holds their error in one line.
    """
    import helion

    from helion_compile.compat import PyCodeCache

    pretend(target)
    source = entry = ""
    try:
        case = Case.from_json(dict(fields))
        kernel = registry.get_kernel(name)
        bound, args = _bound(name, representative(case, kernel.configs.bucketed))
        entry = kernel.helion.name
        source = bound.to_triton_code(helion.Config(**config))
        kernels: list[Any] = []

        def note(jit: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
            done = compile_launch(jit, grid, arguments, options)
            kernels.append(done.result() if hasattr(done, "result") else done)

        getattr(PyCodeCache.load(source), entry)(*args, _launcher=note)
        usage = [_usage(done.asm["cubin"]) for done in kernels]
        return Compiled(
            source,
            entry,
            max((registers for registers, _ in usage), default=0),
            max((spills for _, spills in usage), default=0),
            max((int(done.metadata.shared) for done in kernels), default=0),
        )
    except Exception as error:  # whatever a compiler throws, this config is no candidate and the next one may be
        return Compiled(source, entry, error=" ".join(f"{type(error).__name__}: {error}".split())[:300])


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory a thread, from the compiled binary."""
    from helion_compile.compat import triton_knobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        tool = triton_knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True).stdout
    registers = re.findall(r"REG:(\d+)", text)
    stacks = re.findall(r"STACK:(\d+)", text)
    return max(map(int, registers), default=0), max(map(int, stacks), default=0)
