"""Attributes of a kernel as one argument: a line of words that a person reads in a graph and the kernel while it is compiled.

    "float8_e4m3fn group=128 clamp=-448:448 scale_dtype=bfloat16"

The first word says what kind it is; then come ``name=value`` for what is set and ``name`` alone for what is true, in a fixed
order and without what has its default: equal attributes are equal text.
"""

from __future__ import annotations

import torch

__all__ = ["dtype_named", "read", "write"]


def write(kind: str, **fields: object) -> str:
    """The text; fields that are None or False are left out.  A pair of numbers is written ``low:high``."""
    words = [kind]
    for name, value in fields.items():
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words.append(f"{name}={_word(value)}")
    return " ".join(words)


def read(text: str, *names: str) -> tuple[str, dict[str, str]]:
    """The kind, and the values of the fields that the text names; a field without value has the value "".

    Raises:
        ValueError: the text has a field that is not among ``names``.
    """
    kind, *words = text.split() or [""]
    fields = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in names:
            raise ValueError(f"{text!r} has {word!r}; {kind} takes {', '.join(names)}")
        fields[name] = value
    return kind, fields


def dtype_named(name: str) -> torch.dtype:
    """torch.bfloat16 for "bfloat16".

    Raises:
        ValueError: torch has no such dtype.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no dtype of torch")
    return dtype


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return ":".join(map(_word, value))
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)
