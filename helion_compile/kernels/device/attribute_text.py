# SPDX-License-Identifier: Apache-2.0
"""Attributes of a kernel as one argument: a line of words that a person reads in a graph and the kernel while it is compiled.

    "float8_e4m3fn group=128 clamp=-448:448 scale_dtype=bfloat16"

The first word says what kind it is; then come ``name=value`` for what is set and ``name`` alone for what is true, in a fixed
order and without what has its default: equal attributes are equal text.

A subclass of :class:`Attributes` lists the fields, once; text and reader follow from the list.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch

__all__ = ["Attributes", "copy_fields", "dtype_named", "find_unknown_word", "word_of"]

A = TypeVar("A", bound="Attributes")


@dataclasses.dataclass(frozen=True)
class Attributes:
    """Fields of numbers, dtypes, words (``Literal``), pairs of numbers and truths, all but the first with a default."""

    @property
    def text(self) -> str:
        """The line of words."""
        kind, *others = dataclasses.fields(self)
        words = [_write(getattr(self, kind.name))]
        for field in others:
            value = getattr(self, field.name)
            if value != field.default:
                words.append(field.name if value is True else f"{field.name}={_write(value)}")
        return " ".join(words)

    @classmethod
    def parse(cls: type[A], text: str) -> A:
        """The attributes of a text.

        Raises:
            ValueError: the text has a field that there is not, or a value of another type.
        """
        return _recall(cls, text)


def copy_fields(op: Any, *names: str) -> dict[str, Any]:
    """These attributes of a semantic op, for an :class:`Attributes` that has them too; see :func:`word_of`."""
    values = {name: getattr(op, name) for name in names}
    return {name: word_of(value) if isinstance(value, enum.Enum) else value for name, value in values.items()}


def word_of(member: enum.Enum) -> Any:  # a Literal, and a type checker cannot see of which field
    """The word for a member of an enumeration: its name, in lower case."""
    return member.name.lower()


def find_unknown_word(attributes: Attributes) -> str | None:
    """A field whose word is none of those that it may have, as a sentence, or None."""
    for name, words in _words_of(type(attributes)):  # type: ignore[arg-type]  # a class is hashable
        if getattr(attributes, name) not in words:
            return f"{name} is {getattr(attributes, name)!r}; it is one of {', '.join(words)}"
    return None


@functools.cache  # Python evaluates the annotations, which are texts, each time that it is asked
def _words_of(cls: type[Attributes]) -> list[tuple[str, tuple[str, ...]]]:
    hints = typing.get_type_hints(cls)
    return [(name, typing.get_args(hint)) for name, hint in hints.items() if typing.get_origin(hint) is Literal]


def dtype_named(name: str) -> torch.dtype:
    """torch.bfloat16 for "bfloat16".

    Raises:
        ValueError: torch has no such dtype.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no dtype of torch")
    return dtype


@torch.compiler.assume_constant_result  # else Dynamo reads the reader, and breaks the graph of a reference in two
def _recall(cls: type[A], text: str) -> A:
    return _parse(cls, text)  # type: ignore[arg-type]  # a class is hashable


@functools.lru_cache(256)
def _parse(cls: type[A], text: str) -> A:
    kind, *words = text.split() or [""]
    hints = typing.get_type_hints(cls)
    first, *others = [field.name for field in dataclasses.fields(cls)]
    values = {first: _reader(hints[first])(kind)}
    for word in words:
        name, _, value = word.partition("=")
        if name not in others:
            raise ValueError(f"{text!r} has {word!r}; {kind} takes {', '.join(others)}")
        values[name] = _reader(hints[name])(value)
    return cls(**values)


def _reader(hint: Any) -> Callable[[str], Any]:
    """Makes of a word a value of this type, or of ``type | None``."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return lambda word: tuple(map(float, word.split(":")))
    return {bool: lambda word: True, int: int, float: float, torch.dtype: dtype_named}.get(hint, str)  # type: ignore[return-value]


def _write(value: object) -> str:
    if isinstance(value, tuple):
        return ":".join(map(_write, value))
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)
