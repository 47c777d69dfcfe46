# SPDX-License-Identifier: Apache-2.0
"""Running a kernel, eagerly and behind the graph node; generated code calls through ``call_site.py``.

On a GPU each call replays a launch plan (``record.py``), found by its plan key (``plan_key.py``).  On other devices, and for
empty tensors, the kernel's reference runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode

from helion_compile import compat
from helion_compile.compat import (
    DispatchKey,
    FakeTensorMode,
    FunctionalTensorMode,
    count_dispatch_modes,
    count_pre_dispatch_modes,
    get_dispatch_modes,
    get_pre_dispatch_mode,
    is_dispatch_key_included,
)
from helion_compile.definitions.arguments import check_no_grad
from helion_compile.definitions.overlap import check_written_apart
from helion_compile.runtime import reference
from helion_compile.runtime.call_target import make_call_target
from helion_compile.runtime.dry_run import note_plan_request
from helion_compile.runtime.plan_key import PLAIN_TENSORS, PLAIN_VALUES, make_plan_key
from helion_compile.runtime.record import Plan

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["NOT_REPLAYED", "call", "call_functional", "is_tracing", "replay"]

_TRACING_MODES = (FakeTensorMode, ProxyTorchDispatchMode, FunctionalTensorMode)
NOT_REPLAYED = object()

_PRE_DISPATCH = DispatchKey.PreDispatch
_current_device: Any = compat.find_name("get_cuda_device", None)


def replay(kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    """Replay the plan of a call like this one, the way of almost all eager calls; ``NOT_REPLAYED`` if there is none.

    The key by which plans are found covers what :func:`call` checks: arguments like these were accepted before.  Only whether
    they overlap depends on their addresses.

    Raises:
        KernelArgumentError: the kernel writes to arguments that overlap.
    """
    if count_dispatch_modes() or forward_ad._current_level >= 0 or is_dispatch_key_included(_PRE_DISPATCH):
        return NOT_REPLAYED
    addresses: list[int] = []
    try:
        plan = kernel.plans[make_plan_key(args, addresses)]
    except (RuntimeError, TypeError):  # no address (torch.vmap, sparse) or no plan for such arguments
        return NOT_REPLAYED
    if type(plan) is not Plan or plan.index != _current_device():
        return NOT_REPLAYED
    if plan.apart and plan.may_overlap(addresses):
        check_written_apart(kernel, args)
    return plan.call(*addresses)


def is_tracing(args: tuple[Any, ...]) -> bool:
    """Whether a call with these arguments has to become a graph node (or fake results) instead of running."""
    if count_dispatch_modes() or count_pre_dispatch_modes():
        pre_dispatch = get_pre_dispatch_mode()
        if any(isinstance(mode, _TRACING_MODES) for mode in (*get_dispatch_modes(), pre_dispatch)):
            return True
    return any(isinstance(arg, torch.Tensor) and type(arg) not in PLAIN_TENSORS for arg in args)


def call(kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    """Run on real tensors; arguments that the kernel declares as written are written in place.

    Raises:
        KernelArgumentError: the kernel refuses these arguments, or writes to some that overlap.
        GradientError: one of them requires grad.
        UnpreparedCaptureError: something would have to be compiled while a CUDA graph is being captured.
    """
    args = tuple(map(_plain, args))
    check_no_grad(kernel, args)
    kernel.require_supported(args)
    if kernel.mutates:
        check_written_apart(kernel, args)
    return _run(kernel, args)


def call_functional(kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    """What the graph node means: written arguments are copied first, and returned after the results."""
    args = kernel.copy_mutated(args)
    return kernel.make_node_value(call(kernel, args), args)


def _plain(arg: Any) -> Any:
    """``arg``, and for a tensor, number or string of a derived type (a Parameter's, an enum's, NumPy's) the plain one."""
    if isinstance(arg, torch.Tensor):
        return arg if type(arg) in PLAIN_TENSORS else arg.as_subclass(torch.Tensor)
    if type(arg) is float or type(arg) in PLAIN_VALUES:
        return arg
    if isinstance(arg, torch.SymBool):
        return bool(arg)
    if isinstance(arg, (int, torch.SymInt)):
        return int(arg)
    if isinstance(arg, (float, torch.SymFloat)):
        return float(arg)
    return str.__str__(arg)


def _run(kernel: KernelSpec, args: tuple[Any, ...]) -> Any:
    if reference.needs_reference(args):
        value = reference.run_reference(kernel, args)
        kernel.flatten_results(value)  # what no graph could hold is no result of an eager call either
        return value
    with torch.cuda.device(reference.find_device(args)):
        addresses: list[int] = []
        key = make_plan_key(args, addresses)
        target = kernel.plans[key]
        if target is None:
            if note_plan_request(kernel, args, kernel.plans, key):
                return reference.run_reference(kernel, args)
            target = make_call_target(kernel, args, kernel.plans, key)
        return target.call(*addresses) if isinstance(target, Plan) else target(*args)
