# SPDX-License-Identifier: Apache-2.0
"""The steps that run something: the reference, the body, and Helion's compiler."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from helion_compile.checking.comparing import compare_layouts, compare_values, differ_in_strides
from helion_compile.checking.result import CheckStep, Skipped, describe_failure, run_step
from helion_compile.checking.subject import Subject, copy_arguments, find_undeclared_writes
from helion_compile.passes.failure_log import first_line

__all__ = ["check_body", "check_code", "check_reference", "check_results"]


def check_reference(subject: Subject) -> CheckStep:
    def look(notes: list[str]) -> Iterator[str]:
        kernel = subject.kernel
        args = copy_arguments(subject.args)
        value = kernel.reference(*args)
        subject.expected = subject.results_of(value, args)
        yield from _find_writes(subject, "the reference", subject.args, args)
        yield from _find_shared("the reference", kernel.flatten_results(value), args, subject.names)
        notes.append(", ".join(f"{_short(each)}" for each in subject.expected) or "no result")
        if not subject.expected:
            yield "It returns None, and mutates= names no argument: a graph would drop the call. Return what it computes."

    return run_step("reference", look)


def check_body(subject: Subject) -> CheckStep:
    def look(notes: list[str]) -> Iterator[str]:
        if subject.expected is None:
            raise Skipped("the reference gave nothing to compare with")
        notes.append("launched on the GPU" if subject.on_gpu else "by Helion's interpreter, on a CPU")
        mistakes = [*_compare_body(subject, subject.args, subject.expected)]
        yield from mistakes
        if subject.larger is None:
            notes.append("no other size was tried: the kernel takes none that could be made")
        elif not mistakes:
            what, larger = subject.larger
            args = copy_arguments(larger)
            expected = subject.results_of(subject.kernel.reference(*args), args)
            notes.append(f"and with {what}")
            mistakes = [f"With a size of {what}: {mistake}" for mistake in _compare_body(subject, larger, expected)]
            yield from mistakes
        if subject.transposed is not None and not mistakes:
            notes.append("and with the last two dimensions exchanged in memory")
            args = copy_arguments(subject.transposed)
            expected = subject.results_of(subject.kernel.reference(*args), args)
            found: list[torch.Tensor] = []
            for mistake in _compare_body(subject, subject.transposed, expected, found):
                yield f"With the last two dimensions exchanged in memory: {mistake}"
            # A call with such arguments is right all the same, through Helion's own launch.
            if any(differ_in_strides(ours, theirs) for ours, theirs in zip(found, expected, strict=False)):
                notes.append("whose results have other strides than the reference's, so such calls are launched more slowly")

    return run_step("body", look)


def check_code(subject: Subject) -> CheckStep:
    """Whether Helion makes code, where it is not made by a launch."""

    def look(notes: list[str]) -> Iterator[str]:
        try:
            import triton  # noqa: F401  which the generated code is for
        except ImportError:
            raise Skipped("Triton is not installed") from None
        kernel = subject.kernel
        try:
            inspect.getsource(kernel.fn)
        except OSError:
            yield "Python does not find the function's source, which Helion compiles. Put it into a file or a notebook."
            return
        try:
            subject.bound = kernel.helion.bind(subject.args)
            if not subject.on_gpu:
                lines = subject.bound.to_triton_code(subject.bound.config_spec.default_config()).count("\n")
                notes.append(f"{lines} lines of Triton")
        except Exception as error:
            text = " ".join(line.strip() for line in str(error).splitlines() if line.strip(" ^"))
            yield f"Helion makes no code of the body, {type(error).__name__}: {text[:400]}. Write it as Helion can compile it."

    return run_step("code", look)


def check_results(
    subject: Subject,
    found: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    one: str,
    other: str,
    values: bool = True,
    strides: bool = True,
) -> Iterator[str]:
    """Sentences for what differs between the results of ``one`` and of ``other``."""
    if len(found) != len(expected):
        yield f"{one[:1].upper()}{one[1:]} gives {len(found)} tensors and {other} {len(expected)}. Return the same from both."
        return
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        what = subject.name_result(index)
        layouts = [*compare_layouts(what, ours, theirs, one, other, strides)]
        yield from (f"{sentence} Make both alike: graphs are made for what the reference gives." for sentence in layouts)
        if values and not layouts:
            yield from (
                f"{sentence} Mend the wrong one, or pass rtol= and atol= if both are right."
                for sentence in compare_values(what, ours, theirs, subject.tolerance, one, other)
            )


def _compare_body(
    subject: Subject,
    given: tuple[Any, ...],
    expected: tuple[torch.Tensor, ...],
    found: list[torch.Tensor] | None = None,
) -> Iterator[str]:
    """Sentences for what the body does otherwise; with ``found``, which gets its results, strides may differ."""
    args = copy_arguments(given)
    try:
        value = _run_body(subject, args)
    except Skipped:
        raise
    except Exception as error:
        yield f"It fails {describe_failure(error)}. Mend it, or have check_supported refuse such arguments."
        return
    results = subject.kernel.flatten_results(value)
    yield from _find_writes(subject, "the body", given, args)
    yield from _find_shared("the body", results, args, subject.names)
    flat = subject.results_of(value, args)
    if found is not None:
        found.extend(flat)
    yield from check_results(subject, flat, expected, "the body", "the reference", strides=found is None)


def _run_body(subject: Subject, args: tuple[Any, ...]) -> Any:
    if subject.on_gpu:
        subject.kernel(*copy_arguments(args))  # records the launch plan that the next call replays
        return subject.kernel(*args)
    import helion

    try:
        return subject.kernel.new_helion_kernel(ref_mode=helion.RefMode.EAGER, autotune_effort="none")(*args)
    except AssertionError as error:
        # Where Helion's language has a function that its interpreter has not.
        if traceback.extract_tb(error.__traceback__)[-1].filename.endswith(_NOT_INTERPRETED):
            raise Skipped(f"Helion's interpreter cannot run it ({first_line(error)}); check it on a GPU") from None
        raise


_NOT_INTERPRETED = ("helion/language/_decorators.py", "helion\\language\\_decorators.py")


def _find_writes(subject: Subject, who: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[str]:
    for name in find_undeclared_writes(subject.kernel, before, after):
        yield (
            f"{who[:1].upper()}{who[1:]} wrote to the argument {name!r}, and mutates={subject.kernel.mutates!r} does not name "
            f"it: compiled graphs would reorder or drop that write. Add {name!r} to mutates, or write to a tensor of its own."
        )


def _find_shared(who: str, results: Sequence[torch.Tensor], args: Sequence[Any], names: Sequence[str]) -> Iterator[str]:
    owners = {
        arg.untyped_storage().data_ptr(): f"its argument {name!r}"
        for name, arg in zip(names, args, strict=True)
        if isinstance(arg, torch.Tensor) and arg.numel()
    }
    for index, result in enumerate(results):
        place = result.untyped_storage().data_ptr()
        if result.numel() and place in owners:
            yield (
                f"{who[:1].upper()}{who[1:]} returns {owners[place]} or a view of it. Return new tensors; name arguments that "
                f"are written to in mutates= instead of returning them."
            )
        owners[place] = f"its result {index} again"


def _short(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
