"""Running a kernel, eagerly and behind the graph node, and making launch plans; generated code calls through ``call_site.py``.

On a GPU each call replays a launch plan (``plan.py``), found by everything that the compiled Triton kernels were specialised
on.  On other devices, and for empty tensors, ``reference`` runs.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from helion_compile.definitions.arguments import check_no_grad
from helion_compile.definitions.mutation_check import is_checking, watch_arguments
from helion_compile.errors import UnpreparedCaptureError
from helion_compile.runtime import codegen_cache
from helion_compile.runtime.counters import counters
from helion_compile.runtime.dry_run import collecting
from helion_compile.runtime.plan_cache import Plans, making
from helion_compile.runtime.record import NotReplayable, Plan, record

if TYPE_CHECKING:
    from helion_compile.configs.table import Pick
    from helion_compile.definitions.spec import KernelSpec
    from helion_compile.runtime.call_site import CallSite

__all__ = [
    "NOT_REPLAYED",
    "Alternative",
    "Runner",
    "call",
    "call_functional",
    "device_of",
    "facts_of",
    "host_function",
    "is_tracing",
    "make_runner",
    "reference",
    "replay",
    "runs_reference",
    "warn_once",
]

log = logging.getLogger(__name__)

_TRACING_MODES = (FakeTensorMode, ProxyTorchDispatchMode, FunctionalTensorMode)
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_CONSTANTS = frozenset({int, bool, str, type(None), torch.dtype})
NOT_REPLAYED = object()


@dataclass(frozen=True)
class Alternative:
    """What a table chose instead of the kernel: a function of its arguments and ``out``; see :func:`kernel`."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args, out=None)


# A plan, what stands for the kernel, or Helion's host function where a plan could not be made.
Runner = Plan | Alternative | Callable[..., Any]

_dispatch_modes = torch._C._len_torch_dispatch_stack
_key_is_included = torch._C._dispatch_tls_is_dispatch_key_included
_PRE_DISPATCH = torch._C.DispatchKey.PreDispatch
_current_device = getattr(torch._C, "_cuda_getDevice", None)


# --- eager calls --------------------------------------------------------------------------------------------------------


def replay(kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    """Replay the plan of a call like this one, the way of almost all eager calls; ``NOT_REPLAYED`` if there is none.

    The facts by which plans are found cover what :func:`call` checks: arguments like these were accepted before.
    """
    if _dispatch_modes() or is_checking() or forward_ad._current_level >= 0 or _key_is_included(_PRE_DISPATCH):
        return NOT_REPLAYED
    addresses: list[int] = []
    try:
        plan = kernel.plans[facts_of(args, addresses)]
    except (RuntimeError, TypeError):  # no address (torch.vmap, sparse) or no plan for such arguments
        return NOT_REPLAYED
    if type(plan) is not Plan or plan.index != _current_device():
        return NOT_REPLAYED
    return plan.call(*addresses)


def facts_of(args: tuple[Any, ...], addresses: list[int]) -> tuple[Any, ...]:
    """All that a plan depends on; the tensors' addresses are added to ``addresses``.

    Sizes and strides decide a kernel's integers (Triton builds in those that are 1 and knows those divisible by 16), and
    addresses its alignment (Triton asks for 16 bytes).  Scalars are built into the plan, so 1, 1.0 and True differ, and 0.0
    and -0.0.

    Raises:
        TypeError: an argument of another type than the plain ones, or a tensor that only :func:`call` may judge.
    """
    facts: list[Any] = []
    watched = torch.is_grad_enabled()
    for arg in args:
        kind = type(arg)
        if kind in _PLAIN:
            address = arg.data_ptr()
            addresses.append(address)
            if arg.is_neg() or (watched and arg.requires_grad):
                raise TypeError("a tensor that a kernel cannot read as it is")
            facts += (arg.shape, arg.stride(), arg.dtype, arg.get_device(), address & 15)
        elif kind is float:
            # Zeros are equal, and a NaN differs from itself: these by their bits.
            facts += (kind, arg if arg and arg == arg else struct.pack("d", arg))
        elif kind in _CONSTANTS:
            facts += (kind, arg)
        else:
            raise TypeError(f"{kind.__name__} is no plain type")
    return tuple(facts)


def is_tracing(args: tuple[Any, ...]) -> bool:
    """Whether a call with these arguments has to become a graph node (or fake results) instead of running."""
    if _dispatch_modes() or torch._ops._len_torch_dispatch_stack_pre_dispatch():
        pre_dispatch = torch._ops._get_current_dispatch_mode_pre_dispatch()
        if any(isinstance(mode, _TRACING_MODES) for mode in (*_get_current_dispatch_mode_stack(), pre_dispatch)):
            return True
    return any(isinstance(arg, torch.Tensor) and type(arg) not in _PLAIN for arg in args)


def call(kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    """Run on real tensors; arguments that the kernel declares as written are written in place.

    Raises:
        KernelArgumentError: the kernel refuses these arguments.
        GradientError: one of them requires grad.
        UndeclaredMutationError: in checked mode.
        UnpreparedCaptureError: something would have to be compiled while a CUDA graph is being captured.
    """
    args = tuple(map(_plain, args))
    check_no_grad(kernel, args)
    kernel.require_supported(args)
    if not is_checking():
        return _run(kernel, args)
    with watch_arguments(kernel, args):
        return _run(kernel, args)


def call_functional(kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    """What the graph node means: written arguments are copied first, and returned after the results."""
    args = kernel.copy_mutated(args)
    return kernel.node_value(call(kernel, args), args)


def _plain(arg: Any) -> Any:
    """``arg``, and for a tensor, number or string of a derived type (a Parameter's, an enum's, NumPy's) the plain one."""
    if isinstance(arg, torch.Tensor):
        return arg if type(arg) in _PLAIN else arg.as_subclass(torch.Tensor)
    if type(arg) is float or type(arg) in _CONSTANTS:
        return arg
    if isinstance(arg, torch.SymBool):
        return bool(arg)
    if isinstance(arg, (int, torch.SymInt)):
        return int(arg)
    if isinstance(arg, (float, torch.SymFloat)):
        return float(arg)
    return str.__str__(arg)


def _run(kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    if runs_reference(args):
        value = reference(kernel, args)
        kernel.results(value)  # what no graph could hold is no result of an eager call either
        return value
    with torch.cuda.device(device_of(args)):
        addresses: list[int] = []
        facts = facts_of(args, addresses)
        runner = kernel.plans[facts]
        if runner is None:
            if collecting(kernel, args, kernel.plans, facts):
                return reference(kernel, args)
            runner = make_runner(kernel, args, kernel.plans, facts)
        return runner.call(*addresses) if isinstance(runner, Plan) else runner(*args)


def device_of(args: Sequence[Any]) -> torch.device:
    """The device of the first tensor."""
    return next(arg.device for arg in args if isinstance(arg, torch.Tensor))


def runs_reference(args: Sequence[Any]) -> bool:
    """Whether there is nothing to launch on: no GPU, or no element."""
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    return not tensors or any(not tensor.is_cuda or tensor.numel() == 0 for tensor in tensors)


def reference(kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    """What the kernel's ``reference`` gives; the kernel has no gradient, and neither has this."""
    with torch.no_grad():
        return kernel.reference(*args)


# --- making plans -------------------------------------------------------------------------------------------------------


def make_runner(
    kernel: KernelSpec,
    args: tuple[Any, ...],
    store: Plans | CallSite,
    facts: Any,
    outputs: tuple[torch.Tensor, ...] | None = None,
) -> Runner:
    """The plan of a call with ``args``, or what takes its place; kept in ``store``.

    A config from a table that turns out not to compile is marked as broken, and the next best one taken.

    Args:
        outputs: what the kernel has to write into; None where a plan allocates its own.

    Raises:
        UnpreparedCaptureError: a CUDA graph is being captured, and something would have to be compiled.
    """
    with making():
        runner = store[facts]  # another thread may have been faster
        # A model calls a kernel in each of its layers, and a new number of tokens would need a plan for every one.
        elsewhere = None if outputs is None else _eager_facts(args)
        while runner is None:
            generation, generation_elsewhere = store.generation, kernel.plans.generation
            runner = None if elsewhere is None else kernel.plans[elsewhere]
            if isinstance(runner, Plan) and _fits(runner, outputs):
                store.keep(facts, runner, generation)
                break
            pick = kernel.pick(args)
            try:
                runner = _alternative(kernel, pick)
                if runner is None:
                    _refuse_to_compile_in_a_capture(kernel, args)
                    runner = _explained(kernel, host_function(kernel, args, pick.config), args, outputs)
            except (torch.cuda.OutOfMemoryError, UnpreparedCaptureError):
                raise
            except Exception as error:
                if pick.row is None:
                    raise
                kernel.table.mark_broken(pick.row, f"{type(error).__name__}: {error}")
                runner = None  # the next best row
                continue
            store.keep(facts, runner, generation)
            if elsewhere is not None and isinstance(runner, Plan):
                kernel.plans.keep(elsewhere, runner, generation_elsewhere)
    return runner


def _alternative(kernel: KernelSpec, pick: Pick) -> Alternative | None:
    """What the tables, or the default config, chose instead of the kernel.

    Raises:
        ValueError: something that the kernel does not have.
    """
    name = (pick.config or {}).get("alternative")
    if name is None:
        return None
    if name not in kernel.fallbacks:
        where = "Configs.default" if pick.row is None else "a row"
        raise ValueError(f"{kernel.name}: {where} names an alternative {name!r}, and fallbacks= has none such.")
    return Alternative(kernel.fallbacks[name])


def _refuse_to_compile_in_a_capture(kernel: KernelSpec, args: tuple[Any, ...]) -> None:
    if torch.cuda.is_current_stream_capturing():
        raise UnpreparedCaptureError(
            f"{kernel.name} was called for the first time with case ({kernel.case(*args)}) while a CUDA graph is being "
            f"captured, where nothing can be compiled. Call it once with such arguments before the capture, or use "
            f"helion_compile.warm_up with that number of tokens."
        )


def _fits(plan: Plan, outputs: tuple[torch.Tensor, ...]) -> bool:
    """Whether the kernel may write straight into these: what it was recorded with, and 16-byte aligned as fresh memory is."""
    return len(plan.outputs) == len(outputs) and all(
        buffer.holds(output) and output.data_ptr() % 16 == 0 for buffer, output in zip(plan.outputs, outputs, strict=True)
    )


def _eager_facts(args: tuple[Any, ...]) -> Any:
    """The facts under which a call with these arguments is found outside of a graph; None where there are none."""
    try:
        return facts_of(args, [])
    except (RuntimeError, TypeError):
        return None


def _explained(
    kernel: KernelSpec, host: Callable[..., Any], args: tuple[Any, ...], outputs: tuple[torch.Tensor, ...] | None
) -> Runner:
    try:
        plan = record(host, args, kernel.zeroed_workspace)
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
        log.warning("%s %s", kernel.name, what)


def host_function(kernel: KernelSpec, args: tuple[Any, ...], config: Mapping[str, Any] | None) -> Callable[..., Any]:
    """Helion's generated host function for a config, None for Helion's default one; from disk if it was generated before."""
    kept = codegen_cache.load(kernel, args, config)
    if kept is not None:
        return kept
    import helion

    bound = kernel.helion.bind(_distinct(args))
    chosen = bound.config_spec.default_config() if config is None else helion.Config(**config)
    counters.traced += chosen not in getattr(bound, "_compile_cache", ())
    host = bound.compile_config(chosen)
    codegen_cache.keep(kernel, args, config, bound, chosen)
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
