# SPDX-License-Identifier: Apache-2.0
"""Errors a user can meet, each a subclass of the built-in error it refines; checks of arguments, and how they quote them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from typing import Any

__all__ = [
    "DuplicateKernelError",
    "GradientError",
    "KernelArgumentError",
    "KernelCheckError",
    "PackageError",
    "UnknownKernelError",
    "UnpreparedCaptureError",
    "check_callable",
    "check_flag",
    "check_names",
    "check_path",
    "check_type",
    "truncate",
]


class KernelArgumentError(TypeError):
    """A kernel was called with arguments that its signature or its ``check_supported`` does not allow."""


class KernelCheckError(AssertionError):
    """A kernel's body, its reference and what its author declared do not agree; the text lists all mistakes.

    Attributes:
        result: the :class:`helion_compile.CheckResult`, with the steps that passed too.
    """

    def __init__(self, text: str, result: Any) -> None:
        super().__init__(text)
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.result)


class DuplicateKernelError(ValueError):
    """Two different kernels were given one name."""


class UnknownKernelError(LookupError):
    """A compiled graph names a kernel that this process has not defined, or has defined differently."""


class GradientError(RuntimeError):
    """A kernel without a backward was called on tensors that require grad."""


class UnpreparedCaptureError(RuntimeError):
    """A kernel would have had to be compiled while a CUDA graph is being captured."""


class PackageError(NotImplementedError):
    """A graph calls a kernel that cannot be launched without Python."""


def truncate(value: object, limit: int = 80) -> str:
    """``value`` as one short line of printable ASCII, for messages that quote what a file or a caller said."""
    try:
        text = ascii(value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of more digits than Python writes
        text = f"a {type(value).__name__} too large to show"
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}…"


def check_type(asked: str, value: Any, types: type | tuple[type, ...], wanted: str) -> None:
    """Raise TypeError unless ``value`` is of one of ``types``; a bool is no number.

    Args:
        asked: what the caller was to give, such as "report.to_html(file=…)".
        wanted: what to give instead, as in "a path, such as 'report.html'".
    """
    only = types if isinstance(types, tuple) else (types,)
    if not isinstance(value, only) or (isinstance(value, bool) and bool not in only and object not in only):
        raise TypeError(f"{asked} is {truncate(value, 60)}, of type {type(value).__name__}; give {wanted}.")


def check_callable(asked: str, value: Any, wanted: str, takes: int | None = None) -> None:
    """Raise TypeError unless ``value`` can be called; with ``takes`` arguments, as far as Python can tell."""
    if not callable(value):
        raise TypeError(f"{asked} is {truncate(value, 60)}, of type {type(value).__name__}; give {wanted}.")
    try:
        signature = None if takes is None else inspect.signature(value)
    except (TypeError, ValueError):  # of a function in C
        return
    try:
        if signature is not None:
            signature.bind(*range(takes or 0))
    except TypeError:
        raise TypeError(f"{asked} takes {signature}; give {wanted}.") from None


def check_path(asked: str, value: Any, types: type | tuple[type, ...], wanted: str) -> None:
    """Raise TypeError unless ``value`` is of one of ``types``, ValueError for a path that no file system has."""
    check_type(asked, value, types, wanted)
    if value is not None and "\0" in os.fspath(value):
        raise ValueError(f"{asked} is {truncate(value)}, with a character that no path has; give {wanted}.")


def check_flag(asked: str, value: Any) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    check_type(asked, value, bool, "True or False")


def check_names(asked: str, names: Any, example: str) -> tuple[str, ...]:
    """``names`` as a tuple; TypeError for what is no collection of strings, such as one string, whose letters would count."""
    given = None if isinstance(names, (str, bytes)) or not isinstance(names, Iterable) else tuple(names)
    if given is None or not all(isinstance(name, str) for name in given):
        raise TypeError(f"{asked}={truncate(names)}, where a tuple of names belongs, such as {example}.")
    return given
