# SPDX-License-Identifier: Apache-2.0
"""Timing on a GPU: device time under CUDA-graph replay, host time of calls that only queue work, and what the GPU can do."""

from __future__ import annotations

import collections
import contextlib
import datetime
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from helion_compile.runtime.pdl import without_pdl

__all__ = ["copy_bandwidth", "device_us", "host_us", "machine", "product_rate", "require_gpu", "require_packages", "rotating"]


def require_gpu(command: str) -> None:
    """Exit with a sentence where there is nothing to measure on."""
    if not torch.cuda.is_available():
        raise SystemExit(f"bench {command} measures on a GPU, and torch {torch.__version__} finds none here.")


def require_packages(command: str, *names: str) -> None:
    """Exit with a sentence where one is not installed."""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise SystemExit(f"bench {command} makes a model with {' and '.join(names)}: pip install {' '.join(missing)}")


def rotating(make: Callable[[], tuple[Any, ...]], bytes_each: int) -> list[tuple[Any, ...]]:
    """Enough fresh input sets that no replay finds its input in the L2: three times its size, two sets at least."""
    l2 = torch.cuda.get_device_properties().L2_cache_size
    return [make() for _ in range(max(2, min(256, 3 * l2 // max(bytes_each, 1) + 1)))]


def device_us(fn: Callable[..., Any], sets: Sequence[tuple[Any, ...]], repeats: int = 15, *, chained: bool = False) -> float:
    """Median device time of ``fn(*set)`` in µs, over the ``sets`` in turn, replayed as one CUDA graph.

    Results live for a round of the sets: memory that is written again at once would stay in the L2 and cost no bandwidth.

    Args:
        chained: ``fn`` is several steps of which one may begin while the one before ends, as they do in a model.  A single
            kernel would overlap with the next call of itself, which no model makes.
    """
    for each in sets:  # compiles, tunes, and makes what is made once
        fn(*each)
    torch.cuda.synchronize()
    rounds = max(1, 64 // len(sets))
    graph = torch.cuda.CUDAGraph()
    results: collections.deque[Any] = collections.deque(maxlen=len(sets))
    with torch.cuda.graph(graph), contextlib.nullcontext() if chained else without_pdl():
        for _ in range(rounds):
            for each in sets:
                results.append(fn(*each))
    times = []
    for _ in range(repeats + 3):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) * 1e3 / (rounds * len(sets)))
    return statistics.median(times[3:])


def host_us(fn: Callable[[], Any], calls: int = 200, repeats: int = 25) -> float:
    """Median host time of one call in µs; the queue is drained between batches so that it never fills."""
    for _ in range(50):
        fn()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            fn()
        times.append((time.perf_counter() - start) / calls * 1e6)
    torch.cuda.synchronize()
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a large copy by a kernel."""
    x = torch.randn(2**28, device="cuda")
    y = torch.empty_like(x)
    return 2 * x.nbytes / (device_us(lambda: torch.add(x, 1.0, out=y), [()], repeats=5) * 1e-6)


def product_rate() -> float | None:
    """Operations a second of a large fp8 GEMM by the library, with scales a row; None on a GPU without such GEMMs."""
    if torch.cuda.get_device_capability() < (8, 9):
        return None
    size = 8192
    a, b = (torch.randn(size, size, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
    scale = torch.ones(size, 1, device="cuda")
    options = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
    return 2 * size**3 / (device_us(lambda: torch._scaled_mm(a, b.t(), scale, scale.t(), **options), [()], repeats=5) * 1e-6)


def machine() -> dict[str, str]:
    """What a measurement has to say of where and when it was made."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    names = ("torch", "triton", "helion", "transformers", "torchao", "vllm")
    gpu = {"gpu": torch.cuda.get_device_name(), "date": datetime.date.today().isoformat(), "python": platform.python_version()}
    return gpu | {name: installed(name) for name in names}
