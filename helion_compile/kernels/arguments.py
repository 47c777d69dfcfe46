# SPDX-License-Identifier: Apache-2.0
"""A kernel's arguments as one NamedTuple a family: names and order stand in one place.

Reference, key, support check and library fallbacks take the tuple, made by :func:`takes`; the tuner's inputs and the fusions
make it by name.  The Helion function itself lists its parameters, since Helion reads its text; where a kernel is declared,
they are compared with the reference's, which are the tuple's fields.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["takes"]


def takes(arguments: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Turns a function of one ``arguments``, a NamedTuple class, into one of its fields, in their order.

    Keyword-only parameters that the function has besides stay as they are.
    """
    fields = list(inspect.signature(arguments).parameters.values())

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        _, *others = inspect.signature(function).parameters.values()
        own = {parameter.name for parameter in others}

        @functools.wraps(function)
        def unpacked(*args: Any, **keywords: Any) -> Any:
            named = {name: value for name, value in keywords.items() if name not in own}
            return function(arguments(*args, **named), **{name: keywords[name] for name in keywords if name in own})

        unpacked.__signature__ = inspect.Signature([*fields, *others])  # type: ignore[attr-defined]
        return unpacked

    return decorate
