"""What a kernel is made of, checked where it is defined; and of a ``helion.kernel`` object, what counts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from helion_compile.configs.case import Case

__all__ = [
    "check_names",
    "check_same_parameters",
    "check_signature",
    "find_given_config",
    "settings_that_make_code",
]


def check_names(kernel: str, what: str, names: Any) -> None:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{kernel}: {what}={names!r}, where a tuple of names belongs, such as {what}=('x',).")


def find_given_config(fn: Any) -> Callable[[Case], Mapping[str, Any]] | None:
    """The first config of a helion.kernel object, which its author chose."""
    configs = getattr(fn, "configs", None)
    return (lambda case: configs[0].config) if configs else None


def settings_that_make_code(given: Any) -> tuple[str, ...]:
    """Of a helion.kernel object, the settings and configs that change what it computes or how well a config does."""
    if given is None:
        return ()
    names = ("backend", "index_dtype", "dot_precision", "fast_math", "static_shapes", "allow_warp_specialize")
    return (*(f"{name}={getattr(given.settings, name, None)}" for name in names), repr(given.configs))


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
    theirs = list(inspect.signature(other).parameters)
    if theirs != list(signature.parameters):
        raise TypeError(
            f"{name}: {what} takes ({', '.join(theirs)}), the kernel takes ({', '.join(signature.parameters)}); "
            f"give both the same parameters in the same order."
        )
