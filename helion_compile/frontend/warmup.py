# SPDX-License-Identifier: Apache-2.0
"""``warm_up``: compile what a server will need before it serves, on all CPU cores.

A dry run notes which calls have no launch plan yet and gives them their reference's result.  Helion traces each kernel in this
thread while threads beside it compile with Triton, most of which is LLVM, ptxas and a C compiler at work outside Python.  Then
the plans are made.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from helion_compile.configs.gpu import Gpu
from helion_compile.definitions import registry
from helion_compile.errors import check_callable, check_flag, check_names, check_type, truncate
from helion_compile.helion_kernel import HelionKernel
from helion_compile.runtime.call_target import make_call_target, make_host_function
from helion_compile.runtime.counters import Counters, counters
from helion_compile.runtime.dry_run import PlanRequest, collect_plan_requests
from helion_compile.runtime.plan_cache import plan_lock
from helion_compile.runtime.record import RecordedLaunch, compile_launch, list_launches
from helion_compile.runtime.triton_launch import build_launcher

__all__ = ["WarmUp", "warm_up"]

log = logging.getLogger(__name__)

Inputs = Callable[[int], Any]


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up did.

    Attributes:
        tokens: the numbers of tokens that were run.
        counted: what was traced, loaded and planned.
    """

    tokens: tuple[int, ...]
    counted: Counters
    seconds: float

    def __str__(self) -> str:
        c = self.counted
        return (
            f"warmed up {len(self.tokens)} numbers of tokens in {self.seconds:.1f} s: {c.planned} plans, {c.loaded} binaries, "
            f"{c.traced} configs traced"
        )


def warm_up(
    model_or_kernels: Any,
    tokens: Iterable[int] | int,
    inputs: Inputs | None = None,
    *,
    between: bool = False,
    unaligned: Sequence[str] = (),
    workers: int | None = None,
) -> WarmUp:
    """Compile what calls with these numbers of tokens need; afterwards ``helion_compile.counters.compiled`` stands still.

    Args:
        model_or_kernels: a model or function, compiled or not; a HelionKernel; or a dict from kernels to their ``inputs``.
        tokens: numbers of tokens that will be served, or one.
        inputs: takes a number of tokens, gives a tuple of arguments or a dict of keyword arguments for the call.  By default
            a module gets ``torch.zeros((1, tokens), dtype=torch.long)`` on the device of its parameters.
        between: other numbers up to the largest will be served too.  Adds those at which another config is picked or
            Triton compiles another variant.  Of use for kernels and for models compiled with ``dynamic=True``.
        unaligned: names of a kernel's tensor arguments that may begin anywhere; else they begin at multiples of 16 bytes.
        workers: threads that compile; one for each CPU core by default.

    Raises:
        TypeError, ValueError: nothing to call, no inputs for it, or a name in ``unaligned`` that is no tensor argument.
        Exception: what the call itself raises.
    """
    unaligned = check_names("warm_up: unaligned", unaligned, "unaligned=('x',)")
    check_flag("warm_up(between=…)", between)
    if workers is not None:
        check_type("warm_up(workers=…)", workers, int, "a number of threads, or None")
        if workers < 1:
            raise ValueError(f"warm_up was given workers={workers}; it takes a number of threads from 1 on, or None.")
    calls = _calls(model_or_kernels, inputs, unaligned)
    counts = _counts(tokens, between)
    before, start = counters.copy(), time.perf_counter()
    with torch.no_grad(), _Background(workers or os.cpu_count() or 1) as background:
        with collect_plan_requests(background.add):
            for count, call in itertools.product(counts, calls):
                call(count)
        background.finish()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    done = WarmUp(counts, _difference(counters, before), time.perf_counter() - start)
    log.info("%s", done)
    return done


# --- what to call -------------------------------------------------------------------------------------------------------


def _calls(what: Any, inputs: Inputs | None, unaligned: tuple[str, ...]) -> list[Callable[[int], Any]]:
    if isinstance(what, Mapping):
        if inputs is not None:
            raise TypeError("warm_up was given a dict of kernels and inputs=; give each kernel's inputs in the dict.")
        for kernel, make in what.items():
            check_type("a key of warm_up's dict", kernel, HelionKernel, "a HelionKernel")
            _check_inputs(f"warm_up's inputs for {kernel.short_name}", make)
        return [_kernel_call(kernel, make, unaligned) for kernel, make in what.items()]
    if inputs is not None:
        _check_inputs("warm_up(inputs=…)", inputs)
    if isinstance(what, HelionKernel):
        if inputs is None:
            raise TypeError(
                f"warm_up was given {what.name} without inputs=; pass a function that takes a number of tokens and gives "
                f"the kernel's arguments, such as lambda m: (torch.empty(m, 4096, device='cuda'), weight)."
            )
        return [_kernel_call(what, inputs, unaligned)]
    if not callable(what):
        raise TypeError(f"warm_up was given a {type(what).__name__}; it takes a model, a HelionKernel or a dict of them.")
    if unaligned:
        raise TypeError("warm_up was given unaligned= for a model; it names arguments of a kernel.")
    make = inputs or _token_ids(what)
    return [lambda count: _call(what, make(count))]


def _token_ids(model: Any) -> Inputs:
    if not isinstance(model, torch.nn.Module):
        raise TypeError("warm_up was given a function without inputs=; pass one that takes a number of tokens.")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cuda"))
    return lambda count: (torch.zeros((1, count), dtype=torch.long, device=device),)


def _check_inputs(asked: str, make: Any) -> None:
    check_callable(asked, make, "a function that takes a number of tokens and gives a tuple of arguments", takes=1)


def _check_arguments(arguments: Any) -> None:
    check_type("what warm_up's inputs gave", arguments, (tuple, list, Mapping), "a tuple of arguments, or a dict of keywords")


def _call(function: Callable[..., Any], arguments: Any) -> Any:
    _check_arguments(arguments)
    if not isinstance(arguments, Mapping):
        wanted = f"one that takes the {len(arguments)} arguments which inputs= gave"
        check_callable("warm_up(what)", function, wanted, takes=len(arguments))
        return function(*arguments)
    return function(**arguments)


def _kernel_call(kernel: HelionKernel, make: Inputs, unaligned: tuple[str, ...]) -> Callable[[int], None]:
    unknown = set(unaligned) - set(kernel.signature.parameters)
    if unknown:
        raise ValueError(
            f"{kernel.short_name}: unaligned={unaligned!r} names {', '.join(sorted(unknown))}, but the parameters are "
            f"{', '.join(kernel.signature.parameters)}."
        )

    def call(count: int) -> None:
        arguments = make(count)
        _check_arguments(arguments)
        args = (
            kernel.bind_arguments((), arguments)
            if isinstance(arguments, Mapping)
            else kernel.bind_arguments(tuple(arguments), {})
        )
        named = dict(zip(kernel.signature.parameters, args, strict=True))
        for name in unaligned:
            if named[name] is not None and not isinstance(named[name], torch.Tensor):
                raise ValueError(
                    f"{kernel.short_name}: unaligned={unaligned!r} names {name}, which is a {type(named[name]).__name__} and "
                    f"no tensor."
                )
        for names in _subsets(unaligned):
            kernel(*[_shifted(arg) if name in names else arg for name, arg in named.items()])

    return call


def _subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(len(names) + 1))


def _shifted(arg: Any) -> Any:
    """A tensor like ``arg`` that begins one element past a multiple of 16 bytes."""
    if not isinstance(arg, torch.Tensor) or arg.numel() == 0:
        return arg
    span = 1 + sum((size - 1) * stride for size, stride in zip(arg.shape, arg.stride(), strict=True))
    shifted = torch.empty(span + 1, dtype=arg.dtype, device=arg.device)[1:].as_strided(arg.shape, arg.stride())
    return shifted.copy_(arg)


def _counts(tokens: Iterable[int] | int, between: bool) -> tuple[int, ...]:
    # A list first: of what can be read once only, a second reading would warm up nothing.
    given = list(tokens) if isinstance(tokens, Iterable) else [tokens]
    if not given or not all(type(count) is int and count > 0 for count in given):
        raise ValueError(f"warm_up was given tokens={truncate(given)}; it takes numbers of tokens, such as [1, 16, 256].")
    counts = set(given)
    if not between:
        return tuple(sorted(counts))
    counts |= {size for size in _sizes_in_tables() if size < max(given)}
    below = 0
    for count in sorted(counts):
        # In each range that picks one config: a multiple of 16, another number, and 1, which Triton all tells apart.
        for other in (count // 16 * 16, count - 1 if count % 16 == 0 else count, 1):
            if below < other <= count:
                counts.add(other)
        below = count
    return tuple(sorted(counts))


def _sizes_in_tables() -> set[int]:
    """Numbers of tokens at which some kernel's table changes its config."""
    if not torch.cuda.is_available():  # references run, for which no size is like another
        return set()
    gpu = Gpu.current()
    rows = [row for kernel in registry.list_kernels() for row in kernel.table.rows(gpu)]
    return {size for row in rows if isinstance(size := row.case.fields.get("num_tokens"), int)}


def _difference(now: Counters, before: Counters) -> Counters:
    return Counters(**{name: value - getattr(before, name) for name, value in vars(now).items()})


# --- compiling in the background ----------------------------------------------------------------------------------------


class _Background:
    """Compiles what is added to it in threads; :meth:`finish` makes the plans."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="helion-compile-warm-up")
        self._requests: dict[tuple[int, Any], PlanRequest] = {}
        self._jobs: dict[Any, Future[Any]] = {}

    def __enter__(self) -> _Background:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, request: PlanRequest) -> None:
        key = (id(request.store), request.key)
        if key in self._requests:
            return
        self._requests[key] = request
        with torch.cuda.device(request.device), plan_lock():
            args = request.make_args()
            config = request.kernel.pick(args).config
            if config and "fallback" in config:  # nothing to compile
                return
            try:
                recorded = list_launches(
                    make_host_function(request.kernel, args, config), args, request.kernel.zeroed_workspace
                )
            except Exception as error:  # a config that does not compile: finish() meets it again and tries the next
                log.debug("%s is left to the end of the warm-up: %s", request.kernel.short_name, error)
                return
        for launch in recorded:
            job = (*_variant(launch), request.device)
            if job not in self._jobs:
                self._jobs[job] = self._pool.submit(_compile_on, request.device, launch)

    def finish(self) -> None:
        for job in self._jobs.values():
            job.exception()  # waits; an error comes again, and is dealt with, below
        for request in self._requests.values():
            with torch.cuda.device(request.device):
                make_call_target(request.kernel, request.make_args(), request.store, request.key, request.make_outputs())


def _compile_on(device: torch.device, launch: RecordedLaunch) -> None:
    with torch.cuda.device(device):
        build_launcher(compile_launch(*launch))


def _variant(launch: RecordedLaunch) -> tuple[Any, ...]:
    """Equal for launches of one binary, as far as can be told without Triton: saves threads from compiling it twice."""
    kernel, _, arguments, options = launch
    parts: list[Any] = [id(kernel), tuple(sorted(options.items(), key=repr))]
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            parts.append((argument.dtype, argument.data_ptr() % 16 == 0))
        elif type(argument) is int:
            parts.append((argument == 1, argument % 16 == 0, argument.bit_length() < 32))
        else:
            parts.append(type(argument))
    return tuple(map(repr, parts))
