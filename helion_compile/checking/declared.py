# SPDX-License-Identifier: Apache-2.0
"""The steps that ask what the author declared: support check, case, configs, tuning, fallbacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from helion_compile.checking.kernel_body import check_results
from helion_compile.checking.result import CheckStep, Skipped, run_step
from helion_compile.checking.subject import Subject, copy_arguments, resize
from helion_compile.compat import FakeTensorMode
from helion_compile.configs.case import Case
from helion_compile.definitions.value_dependence import forbid_values
from helion_compile.errors import KernelArgumentError, truncate
from helion_compile.passes.failure_log import first_line

__all__ = ["check_case", "check_configs", "check_fallbacks", "check_support", "check_tuning", "make_fakes"]


def check_support(subject: Subject) -> CheckStep:
    """Whether the support check answers as it should; KernelArgumentError where it says no to the arguments themselves."""

    def look(notes: list[str]) -> Iterator[str]:
        kernel = subject.kernel
        if not kernel.declares_check:
            notes.append("none declared: the kernel takes all arguments")
        try:
            with forbid_values("check_supported", fakes := make_fakes(subject)):
                answer = kernel.check_supported(*fakes)
            if kernel.declares_check:
                notes.append("it takes these arguments")
            if answer is not None:
                yield (
                    f"It takes these arguments, and as fake tensors, which have no values, refuses them: {truncate(answer)}. "
                    f"Look at shapes, strides and dtypes alone."
                )
        except KernelArgumentError as error:
            yield f"It fails on fake tensors, which have no values: {error}"
        except TypeError as error:
            yield str(error)

    try:
        subject.kernel.require_supported(copy_arguments(subject.args))
    except KernelArgumentError:
        raise
    except TypeError as error:  # an answer that is no sentence
        mistake = str(error)
        return run_step("check_supported", lambda notes: iter([mistake]))
    return run_step("check_supported", look)


def check_case(subject: Subject) -> CheckStep:
    def look(notes: list[str]) -> Iterator[str]:
        kernel = subject.kernel
        if not kernel.declares_case:
            notes.append("none declared: one config serves all arguments")
            return
        case = kernel.case(*subject.args)
        if not isinstance(case, Case):
            yield (
                f"It gives {truncate(case)}, of type {type(case).__name__}. Give a helion_compile.Case, such as "
                f"Case(num_tokens=x.size(0))."
            )
            return
        notes.append(str(case))
        try:
            with forbid_values("It", fakes := make_fakes(subject)):
                kernel.case(*fakes)
        except TypeError as error:
            yield f"{error} A config would be picked by values, for which each call had to wait."
        if dtype := _find_equal_dtype(subject, case):
            notes.append(f"{dtype} is the same case")
        yield from _find_alike(subject, case)

    return run_step("case", look)


def check_configs(subject: Subject) -> CheckStep:
    def look(notes: list[str]) -> Iterator[str]:
        kernel, configs = subject.kernel, subject.kernel.configs
        case = kernel.case(*subject.args)
        if not isinstance(case, Case):
            raise Skipped("there is no case")
        declared = {"bucketed": configs.bucketed, "nearest": configs.nearest or ()}
        if declared["bucketed"] == ("num_tokens",):  # by default, which says nothing of the kernel
            declared["bucketed"] = ()
        for what, names in declared.items():
            for name in names:
                if name not in case:
                    yield (
                        f"Configs.{what} names {name!r}, and the case has {', '.join(case) or 'no key field'}. Name key "
                        f"fields that case= gives."
                    )
        if configs.default is None:
            notes.append("no default: Helion's own, until there is a table")
            return
        config = configs.default(case)
        if config is None:
            notes.append("the default is Helion's own")
        elif not isinstance(config, Mapping):
            yield f"Configs.default gives {truncate(config)}. Give a mapping such as {{'block_sizes': [16]}}, or None."
        elif "fallback" in config:
            if config["fallback"] not in kernel.fallbacks:
                known = ", ".join(kernel.fallbacks) or "none"
                named = config["fallback"]
                yield f"Configs.default names the fallback {named!r}, and fallbacks= has {known}. Name one of them."
        else:
            notes.append(f"default {truncate(dict(config))}")
            yield from _find_refused(subject, config)

    return run_step("configs", look)


def check_tuning(subject: Subject) -> CheckStep:
    def look(notes: list[str]) -> Iterator[str]:
        kernel = subject.kernel
        if kernel.tuning.inputs is None:
            notes.append("no Tuning.inputs: the tuner cannot make arguments")
            return
        case = kernel.case(*subject.args)
        if not isinstance(case, Case):
            raise Skipped("there is no case")
        made = kernel.tuning.inputs(case, subject.device)
        if not isinstance(made, tuple) or len(made) != len(subject.names):
            what = f"{len(made)} values" if isinstance(made, (tuple, list)) else f"a {type(made).__name__}"
            yield f"Tuning.inputs gives {what}. Give a tuple of the kernel's arguments: ({', '.join(subject.names)})."
            return
        if refused := kernel.check_supported(*made):
            yield f"Tuning.inputs gives arguments that check_supported refuses: {refused}. Make ones that the kernel takes."
        elif (other := kernel.case(*made)) != case:
            yield (
                f"Tuning.inputs was asked for the case ({case}) and gives arguments of ({other}): a config would be tuned for "
                f"other arguments than it is used for. Make the inputs and case= agree."
            )
        else:
            notes.append("it makes arguments of this case")

    return run_step("tuning", look)


def check_fallbacks(subject: Subject) -> CheckStep:
    def look(notes: list[str]) -> Iterator[str]:
        if not subject.kernel.fallbacks:
            notes.append("none declared")
            return
        if subject.expected is None:
            raise Skipped("the reference gave nothing to compare with")
        for name, function in subject.kernel.fallbacks.items():
            who = f"the fallback {name!r}"
            try:
                found = subject.kernel.flatten_results(function(*copy_arguments(subject.args), out=None))
                out = tuple(torch.full_like(each, 0) for each in subject.expected)
                function(*copy_arguments(subject.args), out=out)
            except (AttributeError, NotImplementedError, RuntimeError) as error:
                if subject.on_gpu:
                    raise
                notes.append(f"{name!r} does not run on a CPU ({truncate(error, 60)})")  # as a library for GPUs may
                continue
            notes.append(name)
            yield from check_results(subject, found, subject.expected, who, "the reference")
            yield from check_results(subject, out, subject.expected, f"{who} with out=", "the reference")

    return run_step("fallbacks", look)


def make_fakes(subject: Subject) -> tuple[Any, ...]:
    """The arguments as fake tensors."""
    mode = FakeTensorMode()
    return tuple(mode.from_tensor(arg) if isinstance(arg, torch.Tensor) else arg for arg in subject.args)


def _find_alike(subject: Subject, case: Case) -> Iterator[str]:
    """Sizes that Helion builds into the code, and that the case does not tell apart."""
    if subject.bound is None:
        return
    told = set()
    for name, arg, fake in zip(subject.names, subject.args, subject.bound.fake_args, strict=True):
        if not isinstance(arg, torch.Tensor):
            continue
        for dim, size in enumerate(fake.shape):
            if not is_concrete_int(size) or int(size) < 2 or int(size) in told:
                continue
            size = int(size)
            told.add(size)
            if _has_equal_case(subject, size, case):
                yield (
                    f"It gives ({case}) for a size of {size} and of {2 * size}, and the body builds that size into its code "
                    f"(dimension {dim} of {name!r}): a config tuned for one would serve the other. Add a key field for it."
                )


def _find_equal_dtype(subject: Subject, case: Case) -> str | None:
    """Another dtype that the kernel takes in the place of its first tensor's, if the case does not tell them apart."""
    first = next(arg.dtype for arg in subject.args if isinstance(arg, torch.Tensor))
    if first not in _FLOATS:
        return None
    other = next(dtype for dtype in _FLOATS if dtype != first)
    given = tuple(arg.to(other) if isinstance(arg, torch.Tensor) and arg.dtype == first else arg for arg in subject.args)
    alike = subject.takes(given) and subject.kernel.case(*given) == case
    return str(other).removeprefix("torch.") if alike else None


_FLOATS = (torch.bfloat16, torch.float32, torch.float16)


def _has_equal_case(subject: Subject, size: int, case: Case) -> bool:
    """Whether the case stays with ``size`` doubled; False where the kernel takes no such arguments."""
    larger = resize(subject.args, size)
    return subject.takes(larger) and subject.kernel.case(*larger) == case


def _find_refused(subject: Subject, config: Mapping[str, Any]) -> Iterator[str]:
    import helion

    try:
        made = helion.Config(**config)
        if subject.bound is not None:
            subject.bound.config_spec.normalize(made)
    except Exception as error:
        yield (
            f"Configs.default gives {truncate(dict(config))}, which Helion does not take for this kernel: "
            f"{first_line(error).rstrip('.')}. Give a config as the tuner writes it."
        )
