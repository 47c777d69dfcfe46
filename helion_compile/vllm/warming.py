"""Everything compiled before the first request, when vLLM warms itself up.

A graph of vLLM serves every number of tokens, and vLLM itself runs only some of them before it serves: those that it
captures, and the largest.  Two dry runs of the model, with two small numbers of tokens, tell which kernels it calls and
how their arguments depend on the number; then the kernels alone are compiled for every config and variant that any
number up to the largest can ask for.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from helion_compile.frontend.warmup import warm_up
from helion_compile.runtime.dry_run import Layout, PlanRequest, collect_plan_requests
from helion_compile.vllm.log import log, off

__all__ = ["Call", "calls_of", "warm"]

# Odd and coprime: a size that is a multiple of the tokens and one that is fixed cannot look alike, and vLLM captures neither.
_DRY = (5, 7)


def warm(worker: Any) -> None:
    """Compile what the worker's model will need; vLLM goes on without where that fails."""
    started = time.perf_counter()
    try:
        largest = worker.vllm_config.scheduler_config.max_num_batched_tokens
        calls = calls_of(_dummy_run(worker.model_runner))
        dry = time.perf_counter() - started
        if not calls:
            log.info("helion_compile: a step of the model calls no kernel of ours")
            return
        log.info(
            "helion_compile: a step of the model calls %s", _format_counts(call.kernel.short_name for call in calls.elements())
        )
        origins: Counter[str] = Counter()

        def run(tokens: int) -> None:
            for call in calls:
                args = call.args(tokens)
                origins[call.kernel.pick(args).origin] += 1
                call.kernel(*args)

        with torch.inference_mode():
            done = warm_up(run, [largest], lambda tokens: (tokens,), between=True)
        torch.cuda.empty_cache()
        log.info(
            "helion_compile: configs for up to %d tokens: %s; %s; dry runs %.1f s, %.1f s in all",
            largest,
            _format_counts(origins.elements()),
            done,
            dry,
            time.perf_counter() - started,
        )
    except Exception as error:
        off("the warm-up is off, first calls of some sizes compile while serving", f"{type(error).__name__}: {error}")


def _dummy_run(runner: Any) -> Callable[[int], Any]:
    from helion_compile.compat import CUDAGraphMode

    return lambda tokens: runner._dummy_run(tokens, cudagraph_runtime_mode=CUDAGraphMode.NONE, skip_eplb=True)


@dataclasses.dataclass(frozen=True)
class Size:
    """A number that grows with the tokens: ``slope * tokens + offset``."""

    slope: int
    offset: int

    @classmethod
    def of(cls, sizes: tuple[int, int]) -> Size:
        slope, rest = divmod(sizes[1] - sizes[0], _DRY[1] - _DRY[0])
        if rest:
            raise ValueError(f"a size is {sizes[0]} for {_DRY[0]} tokens and {sizes[1]} for {_DRY[1]}")
        return cls(slope, sizes[0] - slope * _DRY[0])

    def at(self, tokens: int) -> int:
        return self.slope * tokens + self.offset


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An argument, as it depends on the number of tokens."""

    shape: tuple[Size, ...]
    stride: tuple[Size, ...]
    layout: Layout

    @classmethod
    def of(cls, layouts: tuple[Layout, Layout]) -> Tensor:
        one, other = layouts
        shape, stride = (tuple(map(Size.of, zip(*pair, strict=True))) for pair in zip(*map(_get_sizes, layouts), strict=True))
        if dataclasses.replace(one, shape=(), stride=()) != dataclasses.replace(other, shape=(), stride=()):
            raise ValueError(f"an argument is {one} for {_DRY[0]} tokens and {other} for {_DRY[1]}")
        return cls(shape, stride, dataclasses.replace(one, shape=(), stride=()))

    def at(self, tokens: int) -> torch.Tensor:
        shape, stride = (tuple(size.at(tokens) for size in sizes) for sizes in (self.shape, self.stride))
        return dataclasses.replace(self.layout, shape=shape, stride=stride).tensor()


@dataclasses.dataclass(frozen=True)
class Call:
    """A kernel and its arguments, for any number of tokens."""

    kernel: Any
    arguments: tuple[Any, ...]

    def args(self, tokens: int) -> tuple[Any, ...]:
        return tuple(argument.at(tokens) if isinstance(argument, Tensor) else argument for argument in self.arguments)


def calls_of(run: Callable[[int], Any]) -> Counter[Call]:
    """The different kernel calls that ``run(tokens)`` makes, and how often.

    Raises:
        ValueError: its calls differ between two numbers of tokens in more than sizes.
    """
    found = tuple(list(_record_requests(run, tokens)) for tokens in _DRY)
    if [wanted.kernel for wanted in found[0]] != [wanted.kernel for wanted in found[1]]:
        raise ValueError(f"the model calls other kernels for {_DRY[0]} tokens than for {_DRY[1]}")
    calls = (
        Call(one.kernel, tuple(map(_fit_argument, zip(one.arguments, other.arguments, strict=True))))
        for one, other in zip(*found, strict=True)
    )
    return Counter(calls)


def _format_counts(names: Iterable[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in Counter(names).most_common())


def _record_requests(run: Callable[[int], Any], tokens: int) -> Iterator[PlanRequest]:
    found: list[PlanRequest] = []
    with torch.inference_mode(), collect_plan_requests(found.append):
        run(tokens)
    return iter(found)


def _fit_argument(pair: tuple[Any, Any]) -> Any:
    one, other = pair
    if isinstance(one, Layout):
        return Tensor.of(pair)
    if one != other:
        raise ValueError(f"an argument is {one!r} for {_DRY[0]} tokens and {other!r} for {_DRY[1]}")
    return one


def _get_sizes(layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return layout.shape, layout.stride
