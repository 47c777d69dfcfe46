# SPDX-License-Identifier: Apache-2.0
"""The steps that trace: on fake tensors, and by Dynamo for sizes that change."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from helion_compile.checking.declared import make_fakes
from helion_compile.checking.kernel_body import check_results
from helion_compile.checking.result import CheckStep, Skipped, describe_failure, run_step
from helion_compile.checking.subject import Subject, copy_arguments
from helion_compile.compat import dynamo, dynamo_config

__all__ = ["check_dynamic", "check_fake"]


_SETTINGS = {
    # Equal sizes are one symbol then, as they are where a model makes all arguments from one.
    "assume_static_by_default": False,
    "specialize_int": True,
    "specialize_float": True,
    # Sizes of earlier checks must not make today's dynamic.
    "automatic_dynamic_shapes": False,
}


def check_fake(subject: Subject) -> CheckStep:
    def look(notes: list[str]) -> Iterator[str]:
        if subject.expected is None:
            raise Skipped("the reference gave nothing to compare with")
        kernel = subject.kernel
        fakes = make_fakes(subject)
        mode = next(arg.fake_mode for arg in fakes if isinstance(arg, torch.Tensor))
        try:
            with mode:
                value = kernel.trace(fakes)
        except TypeError as error:
            yield str(error).removeprefix(f"{kernel.short_name}: ")
            return
        found = value if kernel.mutates else kernel.flatten_results(value)
        yield from check_results(
            subject, found, subject.expected, "the reference on fake tensors", "the reference on values", values=False
        )
        notes.append("the same shapes, dtypes and strides")

    return run_step("fake tensors", look)


def check_dynamic(subject: Subject) -> CheckStep:
    def look(notes: list[str]) -> Iterator[str]:
        if subject.larger is None:
            raise Skipped("the kernel takes no other size that could be made")
        what, larger = subject.larger
        graphs: list[torch.fx.GraphModule] = []

        def keep(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(_make_caller(subject), backend=keep, fullgraph=True)
        for given in (subject.args, larger):
            args = copy_arguments(given)
            expected = subject.results_of(subject.kernel.reference(*args), args)
            args = copy_arguments(given)
            _mark_static(args, subject.args, larger)
            with dynamo_config.patch(_SETTINGS):
                try:
                    found = subject.results_of(compiled(*args), args)
                except Exception as error:
                    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
                        error = error.__cause__  # Dynamo's text says least of it
                    yield f"Tracing it with a size that changes fails {describe_failure(error)}."
                    return
            yield from check_results(subject, found, expected, "the compiled graph", "the reference")
        if not graphs:
            raise Skipped("Dynamo is switched off")
        if len(graphs) > 1:
            notes.append(f"compiled anew for a size of {what}: the reference or the support check decides by it")
        else:
            notes.append(f"one graph also serves a size of {what}")

    return run_step("dynamic sizes", look)


def _mark_static(args: Sequence[Any], small: Sequence[Any], larger: Sequence[Any]) -> None:
    """Have Dynamo build those sizes of ``args`` into the graph that are equal in the two calls."""
    for arg, one, other in zip(args, small, larger, strict=True):
        if isinstance(arg, torch.Tensor):
            for dim, (size, other_size) in enumerate(zip(one.shape, other.shape, strict=True)):
                if size == other_size:
                    dynamo.mark_static(arg, dim)


def _make_caller(subject: Subject) -> Any:
    """A function that calls the kernel; with code of its own, since Dynamo counts compilations by code."""
    kernel = subject.kernel

    def call(*args: Any) -> Any:
        return kernel(*args)

    return types.FunctionType(
        call.__code__.replace(co_name=f"call_{kernel.bare_name}"), globals(), None, None, call.__closure__
    )
