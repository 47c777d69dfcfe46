# SPDX-License-Identifier: Apache-2.0
"""Calls from Inductor's generated code: outputs are allocated already, and what a graph fixes is not looked at again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from helion_compile.definitions import registry
from helion_compile.definitions.overlap import check_written_apart
from helion_compile.runtime import profiler_ranges, reference
from helion_compile.runtime.call_target import CallTarget, Fallback, make_call_target, warn_once
from helion_compile.runtime.dry_run import note_plan_request
from helion_compile.runtime.plan_cache import PlanCache
from helion_compile.runtime.plan_key import make_value_key
from helion_compile.runtime.record import Plan
from helion_compile.runtime.triton_launch import define_function

__all__ = ["CallSite"]


class CallSite:
    """One place in Inductor's generated code that calls a kernel: ``site.call(*inputs, *outputs, *symbols)``.

    Outputs are allocated already; inputs that the kernel writes to are written in place.  The graph fixes dtypes, devices and
    constants, and with the values of the symbols all shapes and strides: a plan is found by these values and the alignment of
    the tensors.  Where a graph has no symbols there is one plan for aligned tensors, and ``call`` becomes that.

    Args:
        key: the kernel's name and fingerprint.
        inputs, outputs: how many tensors the call passes and fills.
        arguments: takes the inputs and the symbols' values, gives the kernel's arguments.
        place: where in the model this is, for profilers.

    Raises:
        UnknownKernelError: this process has not defined that kernel.
    """

    def __init__(
        self, key: str, inputs: int, outputs: int, arguments: Callable[..., tuple[Any, ...]], place: str = ""
    ) -> None:
        self.kernel = registry.find_kernel(key)
        self.name = f"{self.kernel.short_name} {place}".strip()
        self.inputs = inputs
        self.tensors = inputs + outputs
        self.arguments = arguments
        self.plans = PlanCache()
        self._use(self.find)
        self.plans.also_clear(self)
        self.kernel.plans.also_clear(self.plans)
        profiler_ranges.follow(self)

    def clear(self) -> None:
        """Called when the plans are dropped."""
        self._use(self.find)

    def use_ranges(self) -> None:
        """Called when ranges for profilers are switched on or off."""
        self._use(self._without_range)

    def _use(self, call: Callable[..., None]) -> None:
        self._without_range = call
        self.call = profiler_ranges.in_range(self.name, call)

    def find(self, *values: Any) -> None:
        """Replay the plan for these values, or make it."""
        symbols = values[self.tensors :]
        addresses = [tensor.data_ptr() for tensor in values[: self.tensors]]
        offsets = tuple([address & 15 for address in addresses])
        key = (tuple([make_value_key(value) for value in symbols]), offsets if any(offsets) else None)
        target = self.plans[key]
        if type(target) is Plan and not (target.apart and target.may_overlap(addresses)):
            target.launch(*addresses)
            return
        args = self.arguments(*values[: self.inputs], *symbols)
        outputs = values[self.inputs : self.tensors]
        if self.kernel.mutates:  # a graph may be called with other views than those that it was traced with
            check_written_apart(self.kernel, args)
        if target is None:
            target = self._make_target(args, outputs, key)
        if type(target) is Plan:
            target.launch(*addresses)
        elif type(target) is Fallback:
            target.function(*args, out=outputs)
        else:
            _copy(self.kernel.flatten_results(target(*args)), outputs)

    def _make_target(self, args: tuple[Any, ...], outputs: tuple[torch.Tensor, ...], key: Any) -> CallTarget:
        if reference.needs_reference(args):
            return self._reference
        reason = self.kernel.check_supported(*args)
        if reason:
            warn_once(self.kernel, f"runs its reference in a compiled graph: {reason}.")
            return self._reference
        with torch.cuda.device(reference.find_device(args)):
            if note_plan_request(self.kernel, args, self, key, outputs):
                return self._reference
            return make_call_target(self.kernel, args, self, key, outputs)

    def _reference(self, *args: Any) -> Any:
        return reference.run_reference(self.kernel, args)

    @property
    def generation(self) -> int:
        return self.plans.generation

    def __getitem__(self, key: Any) -> CallTarget | None:
        return self.plans[key]

    def keep(self, key: Any, target: CallTarget, generation: int) -> bool:
        """See :meth:`PlanCache.keep`."""
        kept = self.plans.keep(key, target, generation)
        if kept and isinstance(target, Plan) and key == ((), None):
            self._use(self._only(target))
            if generation != self.plans.generation:  # dropped meanwhile
                self.clear()
        return kept

    def _only(self, plan: Plan) -> Callable[..., None]:
        """The plan's launch, taking tensors, and leaving unaligned and overlapping ones to :meth:`find`."""
        tensors = [f"t{index}" for index in range(self.tensors)]
        body = [
            *(f"a{index} = t{index}.data_ptr()" for index in range(self.tensors)),
            f"if ({' | '.join(f'a{index}' for index in range(self.tensors))}) & 15:",
            f"    return find({', '.join(tensors)})",
            *(
                f"if {before} < a{other} - a{one} < {after}: return find({', '.join(tensors)})"
                for one, other, before, after in plan.apart
            ),
            *plan.body,
        ]
        return define_function("call", tensors, body, {**plan.names, "find": self.find})


def _copy(sources: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
