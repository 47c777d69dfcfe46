"""HelionKernel: a Helion function together with its meaning in plain torch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd import profiler

from helion_compile.configs.case import Case
from helion_compile.configs.table import ConfigTable, Gpu, Pick
from helion_compile.definitions import registry
from helion_compile.definitions.arguments import check_types
from helion_compile.definitions.fingerprint import config_fingerprint, digest_packages, fingerprint
from helion_compile.definitions.validation import (
    check_names,
    check_same_parameters,
    checked_name,
    checked_signature,
    given_config,
    settings_that_make_code,
)
from helion_compile.errors import KernelArgumentError
from helion_compile.graph.hop import helion_kernel
from helion_compile.runtime import dispatch, profiler_ranges
from helion_compile.runtime.plan_cache import Plans

__all__ = ["HelionKernel", "kernel"]


def kernel(
    fn: Callable[..., Any] | None = None,
    *,
    reference: Callable[..., Any] | None = None,
    case: Callable[..., Case] | None = None,
    refuse: Callable[..., str | None] | None = None,
    mutates: Sequence[str] = (),
    name: str | None = None,
    default_config: Callable[[Case], Mapping[str, Any] | None] | None = None,
    rounded: Sequence[str] = ("num_tokens",),
    nearest: Sequence[str] | None = None,
    inputs: Callable[[Case, torch.device], tuple[Any, ...]] | None = None,
    shapes: Callable[[Any], Iterable[Mapping[str, Any]]] | None = None,
    candidates: Callable[[Case], Iterable[Mapping[str, Any]]] | None = None,
    fallbacks: Mapping[str, Callable[..., Any]] | None = None,
    zeroed_workspace: bool = False,
) -> Any:
    """Make a :class:`HelionKernel` of a Helion function (or of a ``helion.kernel`` object).

    Args:
        fn: the function, written with ``helion.language``.  It takes tensors, optional tensors and Python scalars by
            position or keyword, and returns one tensor, a tuple of tensors, or None.
        reference: the same function in plain torch, with the same parameters.  It defines what the kernel means: it gives
            the shapes while tracing, the result on a CPU and the expected values in tests.  It makes its results with the
            strides that the kernel's have, and writes to its arguments exactly where the kernel does.
        case: takes the arguments, gives the :class:`Case` its configs are stored under; by default one case for all.
        refuse: takes the arguments, gives a sentence when they are outside what the kernel handles, else None.  Called
            while tracing too: it may look at shapes, strides and dtypes, not at values.
        mutates: names of the arguments the kernel writes to.
        name: how graphs, config files and reports call it; the function's name by default.
        default_config: takes a case, gives the Helion config to use when no table has one, or None for Helion's default.
        rounded: facts of a case that look-up rounds up to the next tuned value; the others must match.
        nearest: facts that need not match where nothing tuned does, so that the nearest in size is taken before the default
            config; all numbers by default, and () where the config of one size is worthless for another.
        inputs: takes a case and a device, gives arguments of that case with fresh random values; the tuner measures on them.
        shapes: takes a :class:`helion_compile.tune.cases.Layer`, gives the exact facts that its model calls the kernel with.
        candidates: takes a case, gives all configs that the tuner tries for it, instead of searching Helion's space.
        fallbacks: other ways to the same results, by name: functions of the kernel's parameters and ``out``, a tuple of
            tensors to write the results to, or None to return new ones.  The config ``{"alternative": name}`` calls one.
        zeroed_workspace: the kernel leaves zeros in all memory that its host function makes with ``torch.zeros``, so that the
            memory is made once and used again (:mod:`helion_compile.runtime.zeroed_workspace`).

    Raises:
        TypeError: no reference, or a signature that cannot be called from a graph.
        DuplicateKernelError: the name is taken by another function.
    """

    def decorate(fn: Callable[..., Any]) -> HelionKernel:
        return HelionKernel(
            fn,
            reference=reference,
            case=case,
            refuse=refuse,
            mutates=mutates,
            name=name,
            default_config=default_config,
            rounded=rounded,
            nearest=nearest,
            inputs=inputs,
            shapes=shapes,
            candidates=candidates,
            fallbacks=fallbacks,
            zeroed_workspace=zeroed_workspace,
        )

    return decorate if fn is None else decorate(fn)


class HelionKernel:
    """A Helion function, its meaning in plain torch (``reference``) and the cases its configs are stored under.

    Calling it with CUDA tensors launches the kernel, with CPU tensors it runs ``reference``, and while a graph is traced it
    becomes one ``helion_kernel`` node.  Made by :func:`kernel`.

    Attributes:
        name, fingerprint, key: "norm_quant", "1f3a5c77", and both joined by "@".
        config_fingerprint: the version that its tuned configs are for.
        mutated_positions: where the arguments that it writes to stand in the signature.
        table: the :class:`ConfigTable` its configs come from.
        inputs, shapes, candidates: what the tuner knows of it, as given to :func:`kernel`.
        fallbacks, zeroed_workspace: as given to :func:`kernel`.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        reference: Callable[..., Any] | None,
        case: Callable[..., Case] | None,
        refuse: Callable[..., str | None] | None,
        mutates: Sequence[str],
        name: str | None,
        default_config: Callable[[Case], Mapping[str, Any] | None] | None,
        rounded: Sequence[str],
        nearest: Sequence[str] | None,
        inputs: Callable[[Case, torch.device], tuple[Any, ...]] | None,
        shapes: Callable[[Any], Iterable[Mapping[str, Any]]] | None,
        candidates: Callable[[Case], Iterable[Mapping[str, Any]]] | None,
        fallbacks: Mapping[str, Callable[..., Any]] | None,
        zeroed_workspace: bool,
    ) -> None:
        inner = getattr(fn, "fn", fn)  # a helion.Kernel holds its function there
        if not inspect.isfunction(inner):
            raise TypeError(f"kernel() takes a function or a helion.kernel, got {type(fn).__name__}.")
        self.fn = inner
        self.name = checked_name(name or inner.__name__)
        self.signature = checked_signature(self.name, inner)
        if reference is None:
            raise TypeError(
                f"{self.name}: kernel() needs reference=, the same function in plain torch: it gives shapes while tracing "
                f"and results where there is no GPU."
            )
        check_same_parameters(self.name, "reference", reference, self.signature)
        check_names(self.name, "mutates", mutates)
        check_names(self.name, "rounded", rounded)
        check_names(self.name, "nearest", nearest or ())
        unknown = set(mutates) - self.signature.parameters.keys()
        if unknown:
            raise TypeError(
                f"{self.name}: mutates={tuple(mutates)!r} names {', '.join(sorted(unknown))}, but the parameters are "
                f"{', '.join(self.signature.parameters)}."
            )
        self.reference = reference
        self.case = case or (lambda *args: Case())
        self._refuse = refuse
        self.mutates = tuple(n for n in self.signature.parameters if n in mutates)
        self.mutated_positions = tuple(i for i, n in enumerate(self.signature.parameters) if n in mutates)
        self.default_config = default_config or given_config(fn)
        self.rounded = tuple(rounded)
        self.nearest = None if nearest is None else tuple(nearest)
        self.inputs = inputs
        self.shapes = shapes
        self.candidates = candidates
        self.fallbacks = dict(fallbacks or {})
        if self.fallbacks and self.mutates:
            raise TypeError(f"{self.name}: a kernel that writes to its arguments has no fallbacks; drop one of the two.")
        self.zeroed_workspace = zeroed_workspace
        self._given = fn if fn is not inner else None
        self._settings = settings_that_make_code(self._given)
        self.fingerprint_roots = (inner, reference, case, refuse, default_config, *self.fallbacks.values())
        functools.update_wrapper(self, inner)
        self.plans = Plans()
        registry.register(self)
        from helion_compile.graph import dynamo  # takes a second: paid by who makes a kernel, not by `import helion_compile`

        dynamo.install(HelionKernel)

    # Both are taken at first use: what the kernel reaches may be defined below it in its module.
    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with every edit of what the kernel reaches; part of every key of a compile cache."""
        extra = (self.mutates, self.rounded, self._settings, digest_packages())
        return fingerprint(*self.fingerprint_roots, extra=extra)

    @functools.cached_property
    def config_fingerprint(self) -> str:
        """Changes with an edit that can change which config is best; rows of config tables name it."""
        return config_fingerprint(self.fn, extra=(self.rounded, self._settings))

    @functools.cached_property
    def key(self) -> str:
        key = f"{self.name}@{self.fingerprint}"
        registry.remember(key, self)
        return key

    @property
    def place(self) -> str:
        """Where the kernel is defined: "file.py:12"."""
        return f"{self.fn.__code__.co_filename}:{self.fn.__code__.co_firstlineno}"

    @functools.cached_property
    def helion(self) -> Any:
        """The ``helion.Kernel`` behind it; configs come from the table, so Helion itself never tunes."""
        if self._given is not None:
            return self._given
        # Its heuristics ask for a GPU where code is made, which need not have one.
        return self.new_helion_kernel(autotune_effort="none", disable_autotuner_heuristics=True)

    def new_helion_kernel(self, **settings: Any) -> Any:
        """Another ``helion.Kernel`` of the same function, with more of Helion's settings."""
        import helion

        # What a host function may compute besides launching is watched where its plan is recorded.
        quiet = [helion.exc.TensorOperationInWrapper]
        return helion.kernel(self.fn, static_shapes=False, ignore_warnings=quiet, key=_sizes_that_are_one, **settings)

    @functools.cached_property
    def table(self) -> ConfigTable:
        table = ConfigTable(
            self.name,
            rounded=self.rounded,
            default=self.default_config,
            kernel_fingerprint=self.config_fingerprint,
            nearest=self.nearest,
        )
        table.on_change(self.plans.clear)
        return table

    def bind(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], default: Callable[[Any], Any] = lambda value: value
    ) -> tuple[Any, ...]:
        """The arguments of a call, flat and in the signature's order; ``default`` makes the missing ones.

        Raises:
            KernelArgumentError: too few, too many, or unknown names.
        """
        if not kwargs and len(args) == len(self.signature.parameters):
            return args
        try:
            given = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise KernelArgumentError(f"{self.name}{self.signature} was called with wrong arguments: {error}.") from None
        return tuple(
            given[name] if name in given else default(parameter.default)
            for name, parameter in self.signature.parameters.items()
        )

    def refuse(self, *args: Any) -> str | None:
        """Why the kernel cannot take these arguments, as a sentence, or None."""
        devices = {arg.device for arg in args if isinstance(arg, torch.Tensor)}
        if len(devices) > 1:
            return f"the tensors are on different devices: {', '.join(sorted(map(str, devices)))}"
        return self._refuse(*args) if self._refuse else None

    def check(self, args: tuple[Any, ...]) -> None:
        """Raise KernelArgumentError when :meth:`refuse` has a sentence for these arguments."""
        reason = self.refuse(*args)
        if reason:
            raise KernelArgumentError(f"{self.name} cannot take these arguments: {reason}.")

    def results(self, value: Any) -> tuple[torch.Tensor, ...]:
        """What the kernel or its reference returned, as a tuple: none, one or several tensors.

        Raises:
            TypeError: something else; a tuple of one is among them, since a graph could not tell it from its element.
        """
        if value is None:
            return ()
        if isinstance(value, torch.Tensor):
            return (value,)
        if isinstance(value, tuple) and len(value) > 1 and all(isinstance(item, torch.Tensor) for item in value):
            return value
        what = f"a {type(value).__name__}" + (f" of {len(value)} elements" if isinstance(value, (tuple, list)) else "")
        raise TypeError(f"{self.name}: a kernel returns one tensor, a tuple of two or more tensors, or None; got {what}.")

    def copy_mutated(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """``args`` with a copy in the place of each tensor that the kernel writes to."""
        return tuple(arg.clone() if i in self.mutated_positions and arg is not None else arg for i, arg in enumerate(args))

    def mutated(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Those of ``args`` that the kernel writes to."""
        return tuple(args[i] for i in self.mutated_positions if args[i] is not None)

    def node_value(self, value: Any, args: tuple[Any, ...]) -> Any:
        """The graph node's value: what the kernel returns, or for one that writes to arguments its results and those."""
        results = self.results(value)
        return (*results, *self.mutated(args)) if self.mutates else value

    def traced(self, args: tuple[Any, ...]) -> Any:
        """The node's value on fake tensors.

        Raises:
            KernelArgumentError: the kernel refuses these arguments.
            TypeError: the reference returns what a graph cannot hold, or one of its arguments.
        """
        self.check(args)
        args = self.copy_mutated(args)
        value = self.reference(*args)
        results = self.results(value)
        if not results and not self.mutates:
            raise TypeError(
                f"{self.name}: the reference returns None and mutates=() names no argument, so a graph would drop the call. "
                f"Name what the kernel writes to in mutates=, or return its results."
            )
        named = zip(self.signature.parameters, args, strict=True)
        owners = {_memory(arg): f"its argument {name!r}" for name, arg in named if isinstance(arg, torch.Tensor)}
        for index, result in enumerate(results):
            if owner := owners.get(_memory(result)):
                raise TypeError(
                    f"{self.name}: the reference returns {owner} or a view of it. Return new tensors; name arguments that "
                    f"are written to in mutates= instead of returning them."
                )
            owners[_memory(result)] = f"its result {index} again"
        return self.node_value(value, args)

    def pick(self, args: tuple[Any, ...]) -> Pick:
        """The config for these arguments on the current GPU, and where it comes from."""
        return self.table.pick(self.case(*args), Gpu.current())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args = self.bind(args, kwargs)
        if profiler._is_profiler_enabled and not dispatch.is_tracing(args):
            check_types(self, args)
            with profiler_ranges.called_by(self.name, 1):
                value = dispatch.replay(self, args)
                return dispatch.call(self, args) if value is dispatch.NOT_REPLAYED else value
        value = dispatch.replay(self, args)
        if value is not dispatch.NOT_REPLAYED:
            return value
        check_types(self, args)
        if not dispatch.is_tracing(args):
            return dispatch.call(self, args)
        value = helion_kernel(*args, kernel=self.key)
        if not self.mutates:
            return value
        written = self.mutated(args)
        results, new = value[: len(value) - len(written)], value[len(value) - len(written) :]
        for target, source in zip(written, new, strict=True):
            target.copy_(source)
        return results if len(results) > 1 else results[0] if results else None

    def __repr__(self) -> str:
        return f"<HelionKernel {self.key} at {self.place}>"

    # A kernel is known by its key; copies would be other objects to Dynamo's guards.
    def __copy__(self) -> HelionKernel:
        return self

    def __deepcopy__(self, memo: dict) -> HelionKernel:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return registry.find, (self.key,)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _sizes_that_are_one(*args: Any) -> tuple[tuple[bool, ...], ...]:
    """A part of Helion's key for compiled code.

    Helion keeps one compilation for sizes of one and more, and tracing broadcasts takes a size of one for granted: code that
    was first made for one row would then serve many, and compute one.
    """
    return tuple(tuple(size == 1 for size in arg.shape) for arg in args if isinstance(arg, torch.Tensor))
