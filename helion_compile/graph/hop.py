# SPDX-License-Identifier: Apache-2.0
"""The higher-order op ``helion_kernel``: one graph node for one call of a Helion kernel.

    %out = torch.ops.higher_order.helion_kernel(%x, %weight, 1e-06, kernel="helion_compile::norm_quant@1f3a5c77")

Arguments are flat and in the order of the kernel's signature; ``kernel`` is its name and fingerprint, so equal graphs have
equal text in every process and an edited kernel makes another graph.  A node that the pass puts into a graph has the name
alone, which is readable and means the version of now: compile caches know graphs as they are before the pass, and the pass
by the fingerprints of its kernels (``fusions.identity``).  Tracing such a node gives one with the fingerprint.  The op is
functional.  A kernel that writes to its
arguments appears as the node, which returns its results followed by the new value of each written argument, and a
``copy_`` for each: mutation that every compiler pass already understands, and that Inductor's lowering takes away again.
"""

from __future__ import annotations

from typing import Any

from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, track_tensor_tree

from helion_compile.compat import AutoDispatchBelowAutograd, DispatchKey, FakeTensorMode, HigherOrderOperator, tree_map
from helion_compile.definitions import registry
from helion_compile.definitions.arguments import check_no_grad, check_types
from helion_compile.graph import fake_cache
from helion_compile.passes.ir.fake_results import RECALLERS
from helion_compile.runtime import dispatch

__all__ = ["call", "helion_kernel"]


class HelionKernelOp(HigherOrderOperator):
    """Runs the kernel registered under ``kernel`` on ``args``; see the module's text for what it returns."""

    def __init__(self) -> None:
        super().__init__("helion_kernel", cacheable=True)

    def __call__(self, *args: Any, kernel: str) -> Any:
        return super().__call__(*args, kernel=kernel)


helion_kernel = HelionKernelOp()
RECALLERS[helion_kernel] = lambda mode, args, kwargs: fake_cache.recall(mode, registry.find_kernel(kwargs["kernel"]), args)


def call(name: str, *args: Any) -> Any:
    """What a graph node does that calls the kernel of this name, in its version of now, with flat arguments.

    Raises:
        UnknownKernelError: no such kernel in this process.
        KernelArgumentError: arguments of another number or of types that no kernel takes.
    """
    kernel = registry.get_kernel(name)
    args = kernel.bind_arguments(args, {})
    check_types(kernel, args)
    return helion_kernel(*args, kernel=kernel.key)


@helion_kernel.py_impl(DispatchKey.CompositeExplicitAutograd)
def _dense(*args: Any, kernel: str) -> Any:
    return dispatch.call_functional(registry.find_kernel(kernel), args)


@helion_kernel.py_impl(DispatchKey.Autograd)
def _autograd(*args: Any, kernel: str) -> Any:
    check_no_grad(registry.find_kernel(kernel), args)
    with AutoDispatchBelowAutograd():
        return helion_kernel(*args, kernel=kernel)


@helion_kernel.py_impl(FakeTensorMode)
def _fake(mode: FakeTensorMode, *args: Any, kernel: str) -> Any:
    with mode:
        return fake_cache.trace(mode, registry.find_kernel(kernel), args)


@helion_kernel.py_functionalize_impl
def _functionalize(ctx: Any, *args: Any, kernel: str) -> Any:
    unwrapped = ctx.unwrap_tensors(args)
    with ctx.redispatch_to_next():
        return ctx.wrap_tensors(helion_kernel(*unwrapped, kernel=kernel))


@helion_kernel.py_impl(ProxyTorchDispatchMode)
def _proxy(mode: ProxyTorchDispatchMode, *args: Any, kernel: str) -> Any:
    from helion_compile.graph import lowering  # imports Inductor: paid only where a graph is made

    lowering.register_op(helion_kernel)
    out = helion_kernel(*args, kernel=kernel)
    known = registry.find_kernel(kernel)
    proxies = tree_map(mode.tracer.unwrap_proxy, args)
    node = mode.tracer.create_proxy("call_function", helion_kernel, proxies, {"kernel": known.key}, name=known.bare_name)
    return track_tensor_tree(out, node, constant=None, tracer=mode.tracer)
