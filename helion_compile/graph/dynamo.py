# SPDX-License-Identifier: Apache-2.0
"""Dynamo: a HelionKernel called inside a compiled function becomes a ``helion_kernel`` node.

Private interfaces (``compat``): ``VariableBuilder``'s table by which Dynamo wraps Python objects, ``VariableTracker``, and the
strategy for a code object.  Only the table's entry for HelionKernel is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from helion_compile.compat import (
    ConstantVariable,
    FrameAction,
    FrameExecStrategy,
    GuardBuilder,
    TupleVariable,
    VariableBuilder,
    VariableTracker,
    set_code_exec_strategy,
    unimplemented,
    wrap_fx_proxy,
)
from helion_compile.definitions.arguments import check_no_grad, check_types
from helion_compile.definitions.overlap import check_written_apart
from helion_compile.errors import GradientError, KernelArgumentError
from helion_compile.graph.hop import helion_kernel

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["HelionKernelVariable", "install"]


def install(kernel_type: type[KernelSpec]) -> None:
    """Teach Dynamo to wrap ``kernel_type``; called when the first kernel is made, since none can be traced before."""
    for trace_numpy in (True, False):  # the table is built once for each value of torch._dynamo.config.trace_numpy
        VariableBuilder._type_dispatch_impl(trace_numpy)[kernel_type] = _wrap
    # Where a graph breaks at a kernel, it is called as any function is: its inside is not for Dynamo to compile.
    skip = FrameExecStrategy(FrameAction.SKIP, FrameAction.SKIP)
    set_code_exec_strategy(kernel_type.__call__.__code__, skip)


def _wrap(builder: VariableBuilder, kernel: KernelSpec) -> VariableTracker:
    builder.install_guards(GuardBuilder.ID_MATCH)  # another kernel object in the same place recompiles
    return HelionKernelVariable(kernel, source=builder.source)


class HelionKernelVariable(VariableTracker):
    """A HelionKernel met while tracing."""

    def __init__(self, kernel: KernelSpec, **options: Any) -> None:
        super().__init__(**options)
        self.kernel = kernel

    def call_function(self, tx: Any, args: Sequence[VariableTracker], kwargs: dict[str, VariableTracker]) -> VariableTracker:
        kernel = self.kernel
        try:
            variables = kernel.bind_arguments(tuple(args), kwargs, default=ConstantVariable.create)
            proxies = tuple(map(_proxy, variables))
            examples = tuple(map(_example, proxies))
            check_types(kernel, examples)
            check_no_grad(kernel, examples)
            if kernel.mutates:
                check_written_apart(kernel, examples, traced=True)
        except (KernelArgumentError, GradientError) as error:
            # Where a graph may break, the eager call raises the same error; elsewhere this is the user's own too.
            unimplemented(gb_type="Helion kernel call", context=kernel.key, explanation=str(error), hints=[])
        node = tx.output.create_proxy("call_function", helion_kernel, proxies, {"kernel": kernel.key})
        value = wrap_fx_proxy(tx, node)
        if not kernel.mutates:
            return value
        written = kernel.select_mutated(tuple(None if e is None else v for e, v in zip(examples, variables, strict=True)))
        items = value.unpack_var_sequence(tx)
        results, new = items[: len(items) - len(written)], items[len(items) - len(written) :]
        for target, source in zip(written, new, strict=True):
            target.call_method(tx, "copy_", [source], {})
        if not results:
            return ConstantVariable.create(None)
        return results[0] if len(results) == 1 else TupleVariable(results)

    # What code asks of a kernel object.  The guard holds the object, and its attributes stay.

    def call_obj_hasattr(self, tx: Any, name: str) -> VariableTracker:
        return ConstantVariable.create(hasattr(self.kernel, name))

    def const_getattr(self, tx: Any, name: str) -> Any:
        return getattr(self.kernel, name) if hasattr(self.kernel, name) else super().const_getattr(tx, name)

    # torch 2.11 asks these two of a key of a dict; later versions take what as_python_constant gives.
    def is_python_hashable(self) -> bool:
        return True

    def get_python_hash(self) -> int:
        return hash(self.kernel)

    def is_python_equal(self, other: object) -> bool:
        return isinstance(other, HelionKernelVariable) and self.kernel is other.kernel

    def richcompare_impl(self, tx: Any, other: VariableTracker, op: str) -> VariableTracker:
        same = self.is_python_equal(other)
        if op not in ("__eq__", "__ne__") or not (same or isinstance(other, HelionKernelVariable)):
            return ConstantVariable.create(NotImplemented)
        return ConstantVariable.create(same == (op == "__eq__"))

    def python_type(self) -> type:
        return type(self.kernel)

    def as_python_constant(self) -> KernelSpec:
        return self.kernel


def _proxy(variable: VariableTracker) -> Any:
    try:
        return variable.as_proxy()
    except NotImplementedError:  # no value of a graph: left to check_types, which says so by the name of its type
        return type(variable.python_type().__name__, (), {})()


def _example(proxy: Any) -> Any:
    """The fake tensor or symbolic number behind a proxy; other values stand for themselves."""
    return proxy.node.meta["example_value"] if isinstance(proxy, torch.fx.Proxy) else proxy
