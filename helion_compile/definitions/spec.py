# SPDX-License-Identifier: Apache-2.0
"""KernelSpec: what a kernel is, without running it.  Everything below HelionKernel is written against it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from helion_compile.configs.case import Case
from helion_compile.configs.table import ConfigTable, Gpu, Pick
from helion_compile.definitions.declaration import Configs, Tuning
from helion_compile.definitions.fingerprint import config_fingerprint, digest_packages, fingerprint
from helion_compile.definitions.given_kernel import (
    check_given,
    copy_settings,
    find_given_candidates,
    find_given_config,
    settings_that_make_code,
)
from helion_compile.definitions.names import make_name, shorten_name, split_name
from helion_compile.definitions.specialization import forget_process_groups, sizes_that_are_one
from helion_compile.definitions.validation import (
    check_functions,
    check_same_parameters,
    check_signature,
    find_function,
    name_arguments,
)
from helion_compile.definitions.value_dependence import check_known_sizes, forbid_values
from helion_compile.errors import KernelArgumentError, check_flag, check_names, check_type, truncate

__all__ = ["KernelPlans", "KernelSpec", "PlanStore"]


class PlanStore(Protocol):
    """Where a kernel's launch plans are kept, as far as a kernel has to know it; see ``runtime/plan_cache.py``."""

    @property
    def generation(self) -> int:
        """Grows whenever all plans are dropped."""

    def __getitem__(self, key: Any, /) -> Any:
        """The plan of this key, or None."""

    def keep(self, key: Hashable, plan: Any, generation: int) -> bool:
        """Store ``plan`` unless all were dropped since ``generation``; whether it was stored."""

    def clear(self) -> None:
        """Drop all plans."""


class KernelPlans(PlanStore, Protocol):
    """The plans of a kernel's calls outside of graphs, the store that other stores are cleared with."""

    def also_clear(self, place: Any) -> None:
        """From now on :meth:`clear` also calls ``place.clear()``."""


class KernelSpec:
    """A Helion function, the same in plain torch, and what its author states of it.

    Args:
        fn: the function, written with ``helion.language``, or a ``helion.kernel`` object.  It takes tensors, optional
            tensors and Python scalars by position or keyword, and returns one tensor, a tuple of tensors, or None.
        name: how graphs, config files and reports call it: ``"my_namespace::rope"``, or ``"rope"`` in the namespace of the
            function's module; the function's name by default.
        reference: the same function in plain torch, with the same parameters.  It defines what the kernel means: it gives
            the shapes while tracing, the result on a CPU and the expected values in tests.  It makes its results with the
            strides that the kernel's have, and writes to its arguments exactly where the kernel does.
        case: takes the arguments, gives the :class:`Case` its configs are stored under; by default one case for all.
        check_supported: takes the arguments, gives a sentence when they are outside what the kernel handles, else None.
            Called while tracing too: it may look at shapes, strides and dtypes, not at values.
        mutates: names of the arguments the kernel writes to.
        configs: how a config is found for a case; see :class:`Configs`.
        tuning: what the tuner has to know of the kernel; see :class:`Tuning`.
        fallbacks: library functions with the same results, by name.  They take the kernel's parameters and ``out``: a tuple
            of tensors to write the results to, or None to return new ones.  The config ``{"fallback": name}`` calls one.
        zeroed_workspace: the kernel leaves zeros in all memory that its host function makes with ``torch.zeros``, so that the
            memory is made once and used again (:mod:`helion_compile.runtime.zeroed_workspace`).

    Attributes:
        name, fingerprint, key: "helion_compile::norm_quant", "1f3a5c77", and both joined by "@".
        short_name: what is shown: without the namespace where that is this package's.
        bare_name: without the namespace, for names of nodes and generated functions.
        config_fingerprint: the version that its tuned configs are for.
        signature: of ``fn``.
        declares_case, declares_check: whether ``case`` and ``check_supported`` were given.
        mutated_positions: where the arguments that it writes to stand in the signature.
        table: the :class:`ConfigTable` its configs come from.
        plans: the launch plans of its calls outside of graphs.

    Raises:
        TypeError: no reference, or a signature that cannot be called from a graph.
    """

    plans: KernelPlans

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        reference: Callable[..., Any] | None = None,
        case: Callable[..., Case] | None = None,
        check_supported: Callable[..., str | None] | None = None,
        mutates: Sequence[str] = (),
        configs: Configs = Configs(),  # noqa: B008  frozen
        tuning: Tuning = Tuning(),  # noqa: B008
        fallbacks: Mapping[str, Callable[..., Any]] | None = None,
        zeroed_workspace: bool = False,
    ) -> None:
        inner = find_function(fn)
        self.fn = inner
        self.name = make_name(name, inner)
        self.short_name = shorten_name(self.name)
        self.bare_name = split_name(self.name)[1]
        self.signature = check_signature(self.short_name, inner)
        if reference is None:
            raise TypeError(
                f"{self.short_name}: kernel() needs reference=, the same function in plain torch: it gives shapes while "
                f"tracing and results where there is no GPU."
            )
        check_same_parameters(self.short_name, "reference", reference, self.signature)
        mutates = check_names(f"{self.short_name}: mutates", mutates, "mutates=('x',)")
        check_type(f"{self.short_name}: configs=…", configs, Configs, "helion_compile.Configs(…)")
        configs = configs.checked(self.short_name)
        check_type(f"{self.short_name}: tuning=…", tuning, Tuning, "helion_compile.Tuning(…)")
        check_flag(f"{self.short_name}: zeroed_workspace=…", zeroed_workspace)
        check_functions(self.short_name, self.signature, {"case": case, "check_supported": check_supported}, fallbacks)
        unknown = set(mutates) - self.signature.parameters.keys()
        if unknown:
            raise TypeError(
                f"{self.short_name}: mutates={tuple(mutates)!r} names {', '.join(sorted(unknown))}, but the parameters are "
                f"{', '.join(self.signature.parameters)}."
            )
        if fallbacks and mutates:
            raise TypeError(f"{self.short_name}: a kernel that writes to its arguments has no fallbacks; drop one of the two.")
        self.reference = reference
        self.declares_case, self.declares_check = case is not None, check_supported is not None
        self.case = (lambda *args: Case()) if case is None else case
        self._check_supported = check_supported
        self.mutates = tuple(n for n in self.signature.parameters if n in mutates)
        self.mutated_positions = tuple(i for i, n in enumerate(self.signature.parameters) if n in mutates)
        self.configs = replace(configs, default=configs.default or find_given_config(fn))
        tuning = tuning.checked(self.short_name)
        self.tuning = replace(tuning, candidates=tuning.candidates or find_given_candidates(fn))
        self.fallbacks = dict(fallbacks or {})
        self.zeroed_workspace = zeroed_workspace
        self._given: Any = fn if fn is not inner else None
        if self._given is not None:
            check_given(self.short_name, self._given)
        self._settings = settings_that_make_code(self._given)
        self.fingerprint_roots = (inner, reference, case, check_supported, configs.default, *self.fallbacks.values())
        functools.update_wrapper(self, inner)  # type: ignore[arg-type]

    # Both are taken at first use: what the kernel reaches may be defined below it in its module.
    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with every edit of what the kernel reaches; part of every key of a compile cache."""
        extra = (self.mutates, self.configs.bucketed, self._settings, digest_packages())
        return fingerprint(*self.fingerprint_roots, extra=extra)

    @functools.cached_property
    def config_fingerprint(self) -> str:
        """Changes with an edit that can change which config is best; rows of config tables name it.

        It follows ``fn`` alone: no word of a reference, a support check or a config rule voids a table.
        """
        return config_fingerprint(self.fn, extra=(self.configs.bucketed, self._settings))

    @functools.cached_property
    def key(self) -> str:
        """Name and fingerprint, as graph nodes and generated code name the kernel."""
        return f"{self.name}@{self.fingerprint}"

    @property
    def short_key(self) -> str:
        """The key as it is shown."""
        return shorten_name(self.key)

    @property
    def place(self) -> str:
        """Where the kernel is defined: "file.py:12"."""
        return f"{self.fn.__code__.co_filename}:{self.fn.__code__.co_firstlineno}"

    @functools.cached_property
    def helion(self) -> Any:
        """The ``helion.Kernel`` behind it; configs come from the table, so Helion itself never tunes."""
        import helion

        if self._given is not None:
            if self._given.settings.static_shapes and self._given.settings.ref_mode is helion.RefMode.OFF:
                return self._given
            return self.new_helion_kernel(autotune_effort="none")
        # Its heuristics ask for a GPU where code is made, which need not have one.
        return self.new_helion_kernel(autotune_effort="none", disable_autotuner_heuristics=True)

    def new_helion_kernel(self, **settings: Any) -> Any:
        """Another ``helion.Kernel`` of the same function, with more of Helion's settings."""
        import helion

        # What a host function may compute besides launching is watched where its plan is recorded.
        quiet = [helion.exc.TensorOperationInWrapper]
        usual = {"static_shapes": False, "ignore_warnings": quiet, "ref_mode": helion.RefMode.OFF}
        if self._given is not None:  # whose own key Helion would lose with the object
            usual = {**copy_settings(self._given), "ignore_warnings": quiet, "ref_mode": helion.RefMode.OFF}
        own_key = getattr(self._given, "_key_fn", None)
        key = sizes_that_are_one if own_key is None else lambda *args: (sizes_that_are_one(*args), own_key(*args))
        kernel = helion.kernel(self.fn, key=key, **{**usual, **settings})
        forget_process_groups(kernel)
        return kernel

    @functools.cached_property
    def table(self) -> ConfigTable:
        return self.new_table()

    def new_table(self, folders: Sequence[Path] | None = None) -> ConfigTable:
        """A table of the kernel's configs in ``folders``, by default those of :attr:`table`."""
        return ConfigTable(
            self.short_name,
            bucketed=self.configs.bucketed,
            default=self.configs.default,
            folders=folders,
            kernel_fingerprint=self.config_fingerprint,
            nearest=self.configs.nearest,
            adapt=self.configs.adapt,
        )

    def bind_arguments(
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
            raise KernelArgumentError(f"{self.short_name}{self.signature} was called with wrong arguments: {error}.") from None
        return tuple(
            given[name] if name in given else default(parameter.default)
            for name, parameter in self.signature.parameters.items()
        )

    def check_supported(self, *args: Any) -> str | None:
        """Why the kernel cannot take these arguments, as a sentence, or None."""
        devices = {arg.device for arg in args if isinstance(arg, torch.Tensor)}
        if len(devices) > 1:
            return f"the tensors are on different devices: {', '.join(sorted(map(str, devices)))}"
        with name_arguments(self.short_name, self.signature, args, "check_supported cannot judge"):
            reason = self._check_supported(*args) if self._check_supported else None
        if not isinstance(reason, str | None):
            raise TypeError(
                f"{self.short_name}: check_supported gave {truncate(reason)}; it gives a sentence that says why not, or None."
            )
        return reason

    def require_supported(self, args: tuple[Any, ...]) -> None:
        """Raise KernelArgumentError when :meth:`check_supported` has a sentence for these arguments."""
        check_type(f"{self.short_name}.require_supported(args)", args, (tuple, list), f"a tuple of {self.signature}")
        reason = self.check_supported(*args)
        if reason:
            raise KernelArgumentError(f"{self.short_name} cannot take these arguments: {reason}.")

    def flatten_results(self, value: Any) -> tuple[torch.Tensor, ...]:
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
        what = f"a {type(value).__name__}"
        if isinstance(value, (tuple, list)):
            what += f" of {len(value)} elements ({', '.join(type(item).__name__ for item in value)})"
        raise TypeError(
            f"{self.short_name}: a kernel returns one tensor, a tuple of two or more tensors, or None; got {what}."
        )

    def copy_mutated(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """``args`` with a copy in the place of each tensor that the kernel writes to."""
        return tuple(arg.clone() if i in self.mutated_positions and arg is not None else arg for i, arg in enumerate(args))

    def select_mutated(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Those of ``args`` that the kernel writes to."""
        return tuple(args[i] for i in self.mutated_positions if args[i] is not None)

    def make_node_value(self, value: Any, args: tuple[Any, ...]) -> Any:
        """The graph node's value: what the kernel returns, or for one that writes to arguments its results and those."""
        results = self.flatten_results(value)
        return (*results, *self.select_mutated(args)) if self.mutates else value

    def trace(self, args: tuple[Any, ...]) -> Any:
        """The node's value on fake tensors.

        Raises:
            KernelArgumentError: the kernel refuses these arguments.
            TypeError: the reference returns what a graph cannot hold, or one of its arguments, or depends on values.
        """
        with forbid_values(f"{self.short_name}: check_supported", args):
            self.require_supported(args)
        args = self.copy_mutated(args)
        with forbid_values(f"{self.short_name}: the reference", args):
            value = self.reference(*args)
        results = self.flatten_results(value)
        check_known_sizes(f"{self.short_name}: the reference", results, args)
        if not results and not self.mutates:
            raise TypeError(
                f"{self.short_name}: the reference returns None and mutates=() names no argument, so a graph would drop the "
                f"call. Name what the kernel writes to in mutates=, or return its results."
            )
        named = zip(self.signature.parameters, args, strict=True)
        owners = {_memory(arg): f"its argument {name!r}" for name, arg in named if isinstance(arg, torch.Tensor)}
        for index, result in enumerate(results):
            if owner := owners.get(_memory(result)):
                raise TypeError(
                    f"{self.short_name}: the reference returns {owner} or a view of it. Return new tensors; name arguments "
                    f"that are written to in mutates= instead of returning them."
                )
            owners[_memory(result)] = f"its result {index} again"
        return self.make_node_value(value, args)

    def pick(self, args: tuple[Any, ...]) -> Pick:
        """The config for these arguments on the current GPU, and where it comes from."""
        check_type(f"{self.short_name}.pick(args)", args, (tuple, list), f"a tuple of {self.signature}")
        with name_arguments(self.short_name, self.signature, args, "case= cannot take"):
            case = self.case(*args)
        check_type(f"{self.short_name}: what case= gives", case, Case, "a helion_compile.Case, such as Case(num_tokens=16)")
        return self.table.pick(case, Gpu.current())


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
