# SPDX-License-Identifier: Apache-2.0
"""HelionKernel: what a call of a kernel does.  What a kernel is stands in ``definitions/spec.py``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from torch.autograd import profiler

from helion_compile.configs.table import ConfigTable
from helion_compile.definitions import registry
from helion_compile.definitions.arguments import check_types
from helion_compile.definitions.declaration import Configs, Tuning
from helion_compile.definitions.overlap import check_written_apart
from helion_compile.definitions.spec import KernelSpec
from helion_compile.graph.hop import helion_kernel
from helion_compile.runtime import dispatch, profiler_ranges
from helion_compile.runtime.plan_cache import PlanCache

__all__ = ["Configs", "HelionKernel", "Tuning", "kernel"]

Args = ParamSpec("Args")  # of the Helion function
Result = TypeVar("Result")
Declared = ParamSpec("Declared")  # what its author states of it


class HelionKernel(KernelSpec, Generic[Args, Result]):
    """A kernel that can be called, as its function can.

    Calling it with CUDA tensors launches the kernel, with CPU tensors it runs ``reference``, and while a graph is traced it
    becomes one ``helion_kernel`` node.  Made by :func:`kernel`; :class:`KernelSpec` says of what.

    Raises:
        DuplicateKernelError: the name is taken by another function.
    """

    @functools.wraps(KernelSpec.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.plans = PlanCache()
        registry.register_kernel(self)
        from helion_compile.graph import dynamo  # takes a second: paid by who makes a kernel, not by `import helion_compile`

        dynamo.install(HelionKernel)

    @functools.cached_property
    def key(self) -> str:
        key = super().key
        registry.remember_version(key, self)
        return key

    @functools.cached_property
    def table(self) -> ConfigTable:
        table = super().table
        table.on_change(self.plans.clear)
        return table

    def __call__(self, *args: Args.args, **kwargs: Args.kwargs) -> Result:
        bound = self.bind_arguments(args, kwargs)
        value: Any
        if profiler._is_profiler_enabled and not dispatch.is_tracing(bound):
            check_types(self, bound)
            with profiler_ranges.called_by(self.short_name, 1):
                value = dispatch.replay(self, bound)
                return dispatch.call(self, bound) if value is dispatch.NOT_REPLAYED else value
        value = dispatch.replay(self, bound)
        if value is not dispatch.NOT_REPLAYED:
            return value
        check_types(self, bound)
        if not dispatch.is_tracing(bound):
            return dispatch.call(self, bound)
        if self.mutates:
            check_written_apart(self, bound, traced=True)
        value = helion_kernel(*bound, kernel=self.key)
        if not self.mutates:
            return value
        written = self.select_mutated(bound)
        results, new = value[: len(value) - len(written)], value[len(value) - len(written) :]
        for target, source in zip(written, new, strict=True):
            target.copy_(source)
        returned: Any = results if len(results) > 1 else results[0] if results else None
        return returned

    def __repr__(self) -> str:
        return f"<HelionKernel {self.key} at {self.place}>"

    # A kernel is known by its key; copies would be other objects to Dynamo's guards.
    def __copy__(self) -> HelionKernel:
        return self

    def __deepcopy__(self, memo: dict) -> HelionKernel:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return registry.find_kernel, (self.key,)


class _Decorator(Protocol):
    """What is left of ``@kernel(...)`` once it is called."""

    def __call__(self, fn: Callable[Args, Result], /) -> HelionKernel[Args, Result]: ...


class _Declare(Protocol[Declared]):
    """``kernel(fn, ...)``, or ``@kernel(...)`` above the function."""

    @overload
    def __call__(
        self, fn: Callable[Args, Result], /, *args: Declared.args, **declared: Declared.kwargs
    ) -> HelionKernel[Args, Result]: ...

    @overload
    def __call__(self, *args: Declared.args, **declared: Declared.kwargs) -> _Decorator: ...


def _decorator(spec: Callable[Concatenate[Callable[..., Any], Declared], KernelSpec]) -> _Declare[Declared]:
    """A function and decorator that makes a HelionKernel of what ``spec``, and it alone, says may be declared."""

    known = [name for name, each in inspect.signature(spec).parameters.items() if each.kind is each.KEYWORD_ONLY]

    def kernel(fn: Callable[..., Any] | None = None, /, **declared: Any) -> Any:
        if unknown := [name for name in declared if name not in known]:
            raise TypeError(f"kernel() was given {', '.join(f'{name}=' for name in unknown)}; it takes {', '.join(known)}.")
        return functools.partial(HelionKernel, **declared) if fn is None else HelionKernel(fn, **declared)

    kernel.__doc__ = f"Make a :class:`HelionKernel` of a Helion function.\n\n{inspect.getdoc(spec)}"
    kernel.__signature__ = inspect.signature(spec)  # type: ignore[attr-defined]
    kernel.__qualname__ = "kernel"
    return kernel  # type: ignore[return-value]


kernel = _decorator(KernelSpec)
