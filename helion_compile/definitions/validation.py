# SPDX-License-Identifier: Apache-2.0
"""What a kernel is made of, checked where it is defined."""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from helion_compile.errors import KernelArgumentError, check_type, truncate

__all__ = [
    "check_functions",
    "check_same_parameters",
    "check_signature",
    "describe_types",
    "find_function",
    "name_arguments",
]


def find_function(fn: Any) -> types.FunctionType:
    """The function of a kernel, also of a ``helion.kernel`` object; TypeError for what Helion could not compile."""
    inner = getattr(fn, "fn", fn)  # a helion.Kernel holds its function there
    if not inspect.isfunction(inner):
        raise TypeError(f"kernel() takes a function or a helion.kernel, got {type(fn).__name__}.")
    if inner.__name__ == "<lambda>":
        place = f"{inner.__code__.co_filename}:{inner.__code__.co_firstlineno}"
        raise TypeError(
            f"kernel() was given a lambda ({place}), and Helion compiles the statements of a function. Write it with def."
        )
    return inner


def check_signature(name: str, fn: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(fn)
    for parameter in signature.parameters.values():
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise TypeError(
                f"{name}: parameter {parameter} is {parameter.kind.description}; a kernel's parameters are plain ones, "
                f"which a graph node can list in order."
            )
    return signature


def check_same_parameters(name: str, what: str, other: Callable[..., Any], signature: inspect.Signature) -> None:
    if not callable(other):
        raise TypeError(f"{name}: {what} is a {type(other).__name__}; pass a function with the kernel's parameters.")
    try:
        theirs = list(inspect.signature(other).parameters)
    except ValueError:  # of a function in C
        raise TypeError(
            f"{name}: {what} is {truncate(other, 60)}, whose parameters Python does not know; pass a function with the "
            f"kernel's parameters that calls it, such as lambda {', '.join(signature.parameters)}: …"
        ) from None
    if theirs != list(signature.parameters):
        raise TypeError(
            f"{name}: {what} takes ({', '.join(theirs)}), the kernel takes ({', '.join(signature.parameters)}); "
            f"give both the same parameters in the same order."
        )


def check_functions(name: str, signature: inspect.Signature, functions: Mapping[str, Any], fallbacks: Any) -> None:
    """Raise TypeError for one of ``functions`` that is no function of the kernel's arguments, or fallbacks that are none."""
    for what, function in functions.items():
        if function is not None:
            _check_takes(name, what, function, signature)
    check_type(f"{name}: fallbacks=…", {} if fallbacks is None else fallbacks, Mapping, "a dict of functions by their names")
    for fallback, function in (fallbacks or {}).items():
        check_type(f"{name}: a name in fallbacks", fallback, str, "a text, such as 'library'")
        _check_takes(name, f"fallbacks[{fallback!r}]", function, signature, "out")


def _check_takes(name: str, what: str, other: Any, signature: inspect.Signature, *more: str) -> None:
    """Raise TypeError for what cannot be called with the kernel's arguments, and keywords ``more``."""
    parameters = list(signature.parameters)
    wanted = f"({', '.join([*parameters, *(f'{keyword}=…' for keyword in more)])})"
    if not callable(other):
        raise TypeError(
            f"{name}: {what} is {truncate(other, 60)}, of type {type(other).__name__}; pass a function that takes {wanted}."
        )
    try:
        theirs = inspect.signature(other)
    except (TypeError, ValueError):  # of a function in C
        return
    try:
        theirs.bind(*parameters, **dict.fromkeys(more))
    except TypeError:
        raise TypeError(f"{name}: {what} takes {theirs}; it is called with {wanted}, the kernel's arguments.") from None


@contextlib.contextmanager
def name_arguments(name: str, signature: inspect.Signature, args: Sequence[Any], whose: str) -> Iterator[None]:
    """Within it, an error of a function that met arguments which its author did not think of is one about the arguments.

    Args:
        whose: which function and what it cannot do, as in "check_supported cannot judge".
    """
    try:
        yield
    except KernelArgumentError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise KernelArgumentError(
            f"{name}{signature} was called with {describe_types(args)}, which its {whose} "
            f"({type(error).__name__}: {error}). Pass what its parameters are for."
        ) from error


def describe_types(args: Sequence[Any]) -> str:
    """The arguments of a call in a few words each: "(Tensor [4, 64], None, 2.0)"."""
    shown = (f"{type(arg).__name__} {list(arg.shape)}" if isinstance(arg, torch.Tensor) else truncate(arg, 30) for arg in args)
    return f"({', '.join(shown)})"
