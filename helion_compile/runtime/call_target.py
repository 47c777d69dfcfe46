# SPDX-License-Identifier: Apache-2.0
"""Making what a call runs: its launch plan, or what takes the place of one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from helion_compile.definitions.overlap import list_meeting_ranges
from helion_compile.errors import UnpreparedCaptureError
from helion_compile.runtime import codegen_cache
from helion_compile.runtime.counters import counters
from helion_compile.runtime.plan_cache import plan_lock
from helion_compile.runtime.plan_key import make_plan_key
from helion_compile.runtime.record import NotReplayable, Plan, record_plan

if TYPE_CHECKING:
    from helion_compile.configs.table import Pick
    from helion_compile.definitions.spec import KernelSpec, PlanStore

__all__ = ["CallTarget", "Fallback", "make_call_target", "make_host_function", "warn_once"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fallback:
    """What a table chose instead of the kernel: a function of its arguments and ``out``; see :func:`kernel`."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args, out=None)


# A plan, a fallback, or Helion's host function where a plan could not be made.
CallTarget = Plan | Fallback | Callable[..., Any]


def make_call_target(
    kernel: KernelSpec,
    args: tuple[Any, ...],
    store: PlanStore,
    key: Any,
    outputs: tuple[torch.Tensor, ...] | None = None,
) -> CallTarget:
    """The plan of a call with ``args``, or what takes its place; kept in ``store``.

    A config from a table that turns out not to compile is marked as broken, and the next best one taken.

    Args:
        outputs: what the kernel has to write into; None where a plan allocates its own.

    Raises:
        UnpreparedCaptureError: a CUDA graph is being captured, and something would have to be compiled.
    """
    with plan_lock():
        target = store[key]  # another thread may have been faster
        # A model calls a kernel in each of its layers, and a new number of tokens would need a plan for every one.
        elsewhere = None if outputs is None else _make_eager_key(args)
        while target is None:
            generation, generation_elsewhere = store.generation, kernel.plans.generation
            target = None if elsewhere is None else kernel.plans[elsewhere]
            if outputs is not None and isinstance(target, Plan) and _fits(target, outputs):
                store.keep(key, target, generation)
                break
            pick = kernel.pick(args)
            try:
                target = _find_fallback(kernel, pick)
                if target is None:
                    _forbid_compiling_in_a_capture(kernel, args)
                    target = _record_plan(kernel, make_host_function(kernel, args, pick.config), args, outputs)
            except (torch.cuda.OutOfMemoryError, UnpreparedCaptureError):
                raise
            except Exception as error:
                if pick.row is None:
                    raise
                kernel.table.mark_broken(pick.row, f"{type(error).__name__}: {error}")
                target = None  # the next best row
                continue
            store.keep(key, target, generation)
            if elsewhere is not None and isinstance(target, Plan):
                kernel.plans.keep(elsewhere, target, generation_elsewhere)
    return target


def _find_fallback(kernel: KernelSpec, pick: Pick) -> Fallback | None:
    """What the tables, or the default config, chose instead of the kernel.

    Raises:
        ValueError: something that the kernel does not have.
    """
    name = (pick.config or {}).get("fallback")
    if name is None:
        return None
    if name not in kernel.fallbacks:
        where = "Configs.default" if pick.row is None else "a row"
        raise ValueError(f"{kernel.short_name}: {where} names a fallback {name!r}, and fallbacks= has none such.")
    return Fallback(kernel.fallbacks[name])


def _forbid_compiling_in_a_capture(kernel: KernelSpec, args: tuple[Any, ...]) -> None:
    if torch.cuda.is_current_stream_capturing():
        raise UnpreparedCaptureError(
            f"{kernel.short_name} was called for the first time with case ({kernel.case(*args)}) while a CUDA graph is being "
            f"captured, where nothing can be compiled. Call it once with such arguments before the capture, or use "
            f"helion_compile.warm_up with that number of tokens."
        )


def _fits(plan: Plan, outputs: tuple[torch.Tensor, ...]) -> bool:
    """Whether the kernel may write straight into these: what it was recorded with, and 16-byte aligned as fresh memory is."""
    return len(plan.outputs) == len(outputs) and all(
        buffer.holds(output) and output.data_ptr() % 16 == 0 for buffer, output in zip(plan.outputs, outputs, strict=True)
    )


def _make_eager_key(args: tuple[Any, ...]) -> Any:
    """The key under which a call with these arguments is found outside of a graph; None where there are none."""
    try:
        return make_plan_key(args, [])
    except (RuntimeError, TypeError):
        return None


def _record_plan(
    kernel: KernelSpec, host: Callable[..., Any], args: tuple[Any, ...], outputs: tuple[torch.Tensor, ...] | None
) -> CallTarget:
    try:
        plan = record_plan(host, args, kernel.zeroed_workspace)
        plan = replace(plan, apart=list_meeting_ranges(kernel, args)) if kernel.mutates else plan
        if outputs is not None and not _fits(plan, outputs):
            raise NotReplayable("its outputs are not laid out as its reference's")
    except NotReplayable as reason:
        counters.unplanned += 1
        warn_once(kernel, f"is launched through Helion's own host function, which is slower: {reason}.")
        return host
    counters.planned += 1
    return plan


_warned: set[tuple[str, str]] = set()


def warn_once(kernel: KernelSpec, what: str) -> None:
    """One warning for each kernel and kind of trouble, which comes first in ``what``; the details may differ each time."""
    kind = (kernel.key, what.partition(":")[0])
    if kind not in _warned:
        _warned.add(kind)
        log.warning("%s %s", kernel.short_name, what)


def make_host_function(kernel: KernelSpec, args: tuple[Any, ...], config: Mapping[str, Any] | None) -> Callable[..., Any]:
    """Helion's generated host function for a config, None for Helion's default one; from disk if it was generated before."""
    kept = codegen_cache.load_host_function(kernel, args, config)
    if kept is not None:
        return kept
    import helion

    bound = kernel.helion.bind(_distinct(args))
    chosen = bound.config_spec.default_config() if config is None else helion.Config(**config)
    counters.traced += chosen not in getattr(bound, "_compile_cache", ())
    host = bound.compile_config(chosen)
    codegen_cache.keep_host_function(kernel, args, config, bound, chosen)
    return host


def _distinct(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """``args`` without any tensor object twice.

    Helion gives two parameters that are one object one name in the generated code, and would then serve calls with two
    tensors from it.
    """
    seen: set[int] = set()
    distinct = []
    for arg in args:
        distinct.append(arg.detach() if isinstance(arg, torch.Tensor) and id(arg) in seen else arg)
        seen.add(id(arg))
    return tuple(distinct)
