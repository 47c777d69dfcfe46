# SPDX-License-Identifier: Apache-2.0
"""Launch plans without a GPU: a stand-in for Triton whose "binaries" write down what they were specialised on.

The host function allocates one int64 output of as many elements as the launch has facts.  A compiled kernel bakes in each
argument as Triton would (its type and value, or 1 / divisible by 16 / neither; whether a pointer is aligned), and the launch
writes a digest of that next to the addresses it got.  A plan that serves a call it was not made for is seen in the output.
"""

import contextlib
import ctypes
from types import SimpleNamespace

import torch

import helion_compile
from helion_compile import Case
from helion_compile.configs.gpu import Gpu
from helion_compile.runtime import call_target, dispatch, record, reference
from helion_compile.runtime.triton_launch import LaunchSource

__all__ = ["StubKernel", "X", "expected", "host_of", "install", "same", "stub", "tensor"]

WORDS = 8  # of the output


class StubKernel:
    """What a plan needs of ``triton.JITFunction``."""

    __name__ = "stub"

    def __init__(self, parameters: int) -> None:
        self.arg_names = [f"p{index}" for index in range(parameters)]
        self.compiled = 0

    def run(self, *args, grid, warmup, **options):
        assert warmup
        self.compiled += 1
        return SimpleNamespace(baked=tuple(map(specialisation, args)))


def specialisation(arg):
    if isinstance(arg, torch.Tensor):
        return "pointer", str(arg.dtype), arg.data_ptr() % 16 == 0
    if type(arg) is int:
        return "int", 1 if arg == 1 else 16 if arg % 16 == 0 else 0
    return (type(arg).__name__,)


def words(args, addresses):
    """What the output of a launch with these arguments holds."""
    baked = tuple(map(specialisation, args))
    scalars = tuple(repr(arg) for arg in args if not isinstance(arg, torch.Tensor))
    return [hash(baked), hash(scalars), *addresses]


def launch_source(number, compiled, grid, values, pointers):
    by_position = dict((position, (index, add)) for position, index, add in pointers)
    scalars = tuple(repr(value) for position, value in enumerate(values) if position not in by_position)

    def run(stream, *addresses):
        *inputs, out = addresses
        row = [hash(compiled.baked), hash(scalars), *inputs]
        (ctypes.c_int64 * len(row)).from_address(out)[:] = row

    names = [f"a{index} + {add}" for index, add in by_position.values()]
    return LaunchSource((f"run{number}(stream, {', '.join(names)})",), {f"run{number}": run})


def host_of(kernel):
    """A host function: every argument goes to the kernel as it is, with all sizes and strides of the tensors."""

    def host(*args, _launcher=None):
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        out = torch.empty(WORDS, dtype=torch.int64, device=tensors[0].device)
        _launcher(kernel, (1,), *launch_arguments(args), out)
        return out

    return host


def launch_arguments(args):
    sizes = [n for arg in args if isinstance(arg, torch.Tensor) for n in (*arg.size(), *arg.stride())]
    return *args, *sizes


def expected(args, out):
    """The words that a launch for ``args`` leaves at the beginning of ``out``."""
    addresses = [arg.data_ptr() for arg in args if isinstance(arg, torch.Tensor)]
    return words((*launch_arguments(args), out), addresses)


def install(monkeypatch, hosts):
    """PlanCache on CPU tensors; ``hosts`` takes a kernel, its arguments and a config, and gives the host function."""
    real_empty = torch.empty_strided
    monkeypatch.setattr(record, "launch_source", launch_source)
    monkeypatch.setattr(record, "empty_strided_cuda", lambda shape, stride, dtype: real_empty(shape, stride, dtype=dtype))
    monkeypatch.setattr(record, "current_stream", lambda device: 0)
    monkeypatch.setattr(dispatch, "_current_device", lambda: None)
    monkeypatch.setattr(call_target, "make_host_function", hosts)
    monkeypatch.setattr(reference, "needs_reference", lambda args: any(t.numel() == 0 for t in args if torch.is_tensor(t)))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(Gpu, "current", lambda: Gpu("NVIDIA H200", (9, 0)))


def _reference(x, y, a, b):
    return torch.full((8,), -1)


@helion_compile.kernel(reference=_reference, case=lambda x, *_: Case(num_tokens=x.size(0)), name="test_launch_stub")
def stub(x, y, a, b):
    raise AssertionError("the stand-in is launched instead")


MEMORY = torch.randn(4096)


def tensor(shape, shift=0, strides=None):
    strides = strides or tuple(torch.empty(shape).stride())
    return MEMORY.as_strided(shape, strides, shift)


def same(args):
    out = stub(*args)
    assert out[: len(expected(args, out))].tolist() == expected(args, out)


X = tensor((4, 8))
