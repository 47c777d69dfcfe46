"""Timing on a GPU: device time under CUDA-graph replay, and host time of calls that only queue work."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from helion_compile.launcher import without_dependent_launch

__all__ = ["device_us", "host_us", "machine", "require_gpu", "rotating"]


def require_gpu(command: str) -> None:
    """Exit with a sentence where there is nothing to measure on."""
    if not torch.cuda.is_available():
        raise SystemExit(f"bench {command} measures on a GPU, and torch {torch.__version__} finds none here.")


def rotating(make: Callable[[], tuple[Any, ...]], bytes_each: int) -> list[tuple[Any, ...]]:
    """Enough fresh input sets that no replay finds its input in the L2: three times its size, two sets at least."""
    l2 = torch.cuda.get_device_properties().L2_cache_size
    return [make() for _ in range(max(2, min(256, 3 * l2 // max(bytes_each, 1) + 1)))]


def device_us(fn: Callable[..., Any], sets: Sequence[tuple[Any, ...]], repeats: int = 15, *, chained: bool = False) -> float:
    """Median device time of ``fn(*set)`` in µs, over the ``sets`` in turn, replayed as one CUDA graph.

    Args:
        chained: ``fn`` is several steps of which one may begin while the one before ends, as they do in a model.  A single
            kernel would overlap with the next call of itself, which no model makes.
    """
    for each in sets:  # compiles, tunes, and makes what is made once
        fn(*each)
    torch.cuda.synchronize()
    rounds = max(1, 64 // len(sets))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), contextlib.nullcontext() if chained else without_dependent_launch():
        for _ in range(rounds):
            for each in sets:
                fn(*each)
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


def machine() -> dict[str, str]:
    """What a measurement has to say of where it was made."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    names = ("torch", "triton", "helion", "transformers", "torchao", "vllm")
    return {"gpu": torch.cuda.get_device_name(), **{name: installed(name) for name in names}}
