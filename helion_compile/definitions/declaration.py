# SPDX-License-Identifier: Apache-2.0
"""What the author of a kernel states of it in groups: how its configs are found, and what the tuner has to know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from helion_compile.configs.case import Case
from helion_compile.errors import check_callable, check_names, check_type

__all__ = ["Configs", "Tuning"]


@dataclass(frozen=True)
class Configs:
    """How a kernel's config is found for a case.

    Attributes:
        default: takes a case, gives the Helion config to use when no table has one, or None for Helion's default.
        bucketed: key fields of a case that look-up rounds up to the next tuned value; the others must match.
        nearest: key fields that need not match where nothing tuned does, so that the nearest in size is taken before the
            default config; all numbers by default, and () where the config of one size is worthless for another.
        adapt: takes the config of the nearest case, that case and the one asked for, gives the config to use; by default
            the config as it is.
        measured_on: GPU architectures on which the default config was measured not to lose against Inductor's kernel, for
            schemes that no table has. On others a fusion waits for a table.
    """

    default: Callable[[Case], Mapping[str, Any] | None] | None = None
    bucketed: Sequence[str] = ("num_tokens",)
    nearest: Sequence[str] | None = None
    adapt: Callable[[Mapping[str, Any], Case, Case], Mapping[str, Any]] | None = None
    measured_on: Collection[str] = ()

    def checked(self, kernel: str) -> Configs:
        """The same with names as tuples; TypeError for what cannot be meant for ``kernel``."""
        if self.default is not None:
            wanted = "a function that takes a case and gives a config, or None"
            check_callable(f"{kernel}: Configs.default", self.default, wanted, takes=1)
        if self.adapt is not None:
            wanted = "a function that takes a config and two cases, or None"
            check_callable(f"{kernel}: Configs.adapt", self.adapt, wanted, takes=3)
        bucketed = check_names(f"{kernel}: Configs.bucketed", self.bucketed, "bucketed=('num_tokens',)")
        nearest = self.nearest
        if nearest is not None:
            nearest = check_names(f"{kernel}: Configs.nearest", nearest, "nearest=('k', 'n')")
        measured_on = check_names(f"{kernel}: Configs.measured_on", self.measured_on, "measured_on=('sm_90',)")
        return replace(self, bucketed=bucketed, nearest=nearest, measured_on=measured_on)


@dataclass(frozen=True)
class Tuning:
    """What the tuner has to know of a kernel.

    Attributes:
        inputs: takes a case and a device, gives arguments of that case with fresh random values; the tuner measures on them.
        shapes: takes a :class:`helion_compile.tune.cases.Layer`, gives the exact key fields of its model's calls.
        candidates: takes a case, gives all configs that the tuner tries for it, instead of searching Helion's space.
        usual: exact key fields of well-known models' calls, tuned where neither a model nor shapes are named.
        tokens: token counts tuned where none are named; by default powers of two up to 8192.
    """

    inputs: Callable[[Case, torch.device], tuple[Any, ...]] | None = None
    shapes: Callable[[Any], Iterable[Mapping[str, Any]]] | None = None
    candidates: Callable[[Case], Iterable[Mapping[str, Any]]] | None = None
    usual: Sequence[Mapping[str, Any]] = ()
    tokens: Sequence[int] = ()

    def checked(self, kernel: str) -> Tuning:
        """The same with sequences as tuples; TypeError for what cannot be meant for ``kernel``."""
        for name, takes, what in (("inputs", 2, "a case and a device"), ("shapes", 1, "a Layer"), ("candidates", 1, "a case")):
            if (given := getattr(self, name)) is not None:
                check_callable(f"{kernel}: Tuning.{name}", given, f"a function that takes {what}, or None", takes)
        for name, kind, example in (("usual", Mapping, "({'hidden_size': 4096},)"), ("tokens", int, "(1, 16)")):
            given = getattr(self, name)
            check_type(f"{kernel}: Tuning.{name}", given, Sequence, f"a sequence, such as {example}")
            for each in given:
                check_type(f"{kernel}: an item of Tuning.{name}", each, kind, f"one as in {example}")
        return replace(self, usual=tuple(self.usual), tokens=tuple(self.tokens))

    def make_inputs(self, case: Case, device: torch.device) -> tuple[Any, ...]:
        """Fresh arguments of ``case``.

        Raises:
            TypeError: the kernel was declared without a way to make them.
        """
        if self.inputs is None:
            raise TypeError(f"arguments of the case ({case}) cannot be made: the kernel has no tuning=Tuning(inputs=…)")
        return self.inputs(case, device)
