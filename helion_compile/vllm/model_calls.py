# SPDX-License-Identifier: Apache-2.0
"""Which kernels a model calls, and how their arguments depend on the number of tokens: told by a few dry runs.

A size that is the same in all runs is taken as fixed, another one as a line through the first two runs, which the others
have to confirm.  Where a call does not, vLLM rounds up or cuts off what it sees, and nothing is known of other numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch

from helion_compile.runtime.dry_run import Layout, PlanRequest, collect_plan_requests

__all__ = ["Call", "ModelCalls", "Size", "find_calls"]


@dataclasses.dataclass(frozen=True)
class Size:
    """A number that grows with the tokens: ``slope * tokens + offset``, rounded up."""

    slope: Fraction
    offset: Fraction

    @classmethod
    def of(cls, tokens: Sequence[int], sizes: Sequence[int]) -> Size:
        """The size that was seen to be ``sizes`` for these numbers of ``tokens``.

        Raises:
            ValueError: it does not grow in a line.
        """
        slope = Fraction(sizes[1] - sizes[0], tokens[1] - tokens[0])
        size = cls(slope, sizes[0] - slope * tokens[0])
        if slope < 0 or any(size.at(count) != seen for count, seen in zip(tokens, sizes, strict=True)):
            raise ValueError(f"a size is {_enumerate(sizes)} for {_enumerate(tokens)} tokens")
        return size

    def at(self, tokens: int | Fraction) -> int:
        return math.ceil(self.slope * tokens + self.offset)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An argument, as it depends on the number of tokens."""

    shape: tuple[Size, ...]
    stride: tuple[Size, ...]
    layout: Layout

    @classmethod
    def of(cls, tokens: Sequence[int], layouts: Sequence[Layout]) -> Tensor:
        kinds = {dataclasses.replace(layout, shape=(), stride=()) for layout in layouts}
        if len(kinds) > 1 or len({len(layout.shape) for layout in layouts}) > 1:
            raise ValueError(f"an argument is {_enumerate(layouts)} for {_enumerate(tokens)} tokens")
        shape, stride = (
            tuple(Size.of(tokens, sizes) for sizes in zip(*each, strict=True))
            for each in ([layout.shape for layout in layouts], [layout.stride for layout in layouts])
        )
        return cls(shape, stride, kinds.pop())

    def at(self, tokens: int | Fraction) -> torch.Tensor:
        shape, stride = (tuple(size.at(tokens) for size in sizes) for sizes in (self.shape, self.stride))
        return dataclasses.replace(self.layout, shape=shape, stride=stride).tensor()


@dataclasses.dataclass(frozen=True)
class Call:
    """A kernel and its arguments, for any number of tokens."""

    kernel: Any
    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, tokens: Sequence[int], requests: Sequence[PlanRequest]) -> Call:
        """The call that made these requests, one in each run.

        Raises:
            ValueError: they differ in more than sizes that grow in a line.
        """
        arguments = zip(*(request.arguments for request in requests), strict=True)
        return cls(requests[0].kernel, tuple(_fit_argument(tokens, each) for each in arguments))

    @property
    def rows_per_token(self) -> Fraction | None:
        """By how much the slowest of its sizes grows with each token; None where all are fixed."""
        tensors = [argument for argument in self.arguments if isinstance(argument, Tensor)]
        return min((size.slope for tensor in tensors for size in tensor.shape if size.slope), default=None)

    def args(self, tokens: int | Fraction) -> tuple[Any, ...]:
        return tuple(argument.at(tokens) if isinstance(argument, Tensor) else argument for argument in self.arguments)


@dataclasses.dataclass
class ModelCalls:
    """The different calls of one step of a model, and how often it makes each.

    Attributes:
        known: those whose arguments are known for every number of tokens.
        unknown: a kernel and the reason why they are not.
    """

    known: Counter[Call] = dataclasses.field(default_factory=Counter)
    unknown: Counter[tuple[Any, str]] = dataclasses.field(default_factory=Counter)

    def count_kernels(self) -> Counter[str]:
        """How often each kernel is called."""
        counts: Counter[str] = Counter()
        for call, count in self.known.items():
            counts[call.kernel.short_name] += count
        for (kernel, _), count in self.unknown.items():
            counts[kernel.short_name] += count
        return counts


def find_calls(run: Callable[[int], Any], tokens: Sequence[int]) -> ModelCalls:
    """What ``run`` calls, told by runs with these numbers of tokens, of which there are three at least.

    All runs are made before anything is judged: other ranks make them too, and wait for this one's part in each.
    """
    runs = [list(_record_requests(run, count)) for count in tokens]
    found = ModelCalls()
    for kernel in dict.fromkeys(request.kernel for requests in runs for request in requests):
        of_kernel = [[request for request in requests if request.kernel is kernel] for requests in runs]
        counts = [len(requests) for requests in of_kernel]
        if len(set(counts)) > 1:
            found.unknown[kernel, f"it is called {_enumerate(counts)} times for {_enumerate(tokens)} tokens"] += max(counts)
            continue
        for requests in zip(*of_kernel, strict=True):
            try:
                found.known[Call.of(tokens, requests)] += 1
            except ValueError as reason:
                found.unknown[kernel, str(reason)] += 1
    return found


def _record_requests(run: Callable[[int], Any], tokens: int) -> Iterator[PlanRequest]:
    found: list[PlanRequest] = []
    with torch.inference_mode(), collect_plan_requests(found.append):
        run(tokens)
    return iter(found)


def _fit_argument(tokens: Sequence[int], values: Sequence[Any]) -> Any:
    if all(isinstance(value, Layout) for value in values):
        return Tensor.of(tokens, values)
    if any(value != values[0] for value in values):
        raise ValueError(f"an argument is {_enumerate(values)} for {_enumerate(tokens)} tokens")
    return values[0]


def _enumerate(values: Sequence[Any]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}"
