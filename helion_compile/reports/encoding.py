# SPDX-License-Identifier: Apache-2.0
"""Reports as JSON that is read back: dataclasses as objects of their fields, whose annotations say what has to stand there.

What is read may be anything.  So each value has to be of exactly the type that its field says, and nothing beyond: no field
more or less, no ``true`` for a number, no number that is none, no text that cannot be written.  That is stricter than msgspec,
pydantic and cattrs are, which would need a hook for each of these and for the semantic ops.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Mapping
from string import Formatter
from typing import Any

import torch

from helion_compile.passes import semantics
from helion_compile.passes.account.refusal import Refusal
from helion_compile.passes.semantics import SemanticOp
from helion_compile.verify.compare import Compared

__all__ = ["decode", "encode"]

_OP = "op"
_OPS = {each.__name__: each for each in vars(semantics).values() if isinstance(each, type) and issubclass(each, SemanticOp)}
_DTYPES = {str(each).removeprefix("torch."): each for each in vars(torch).values() if isinstance(each, torch.dtype)}
_WITH_INFINITIES = (SemanticOp, Compared)  # a bound that is none, and how far a number is from a NaN
_DEEPEST = 6  # lists and objects in a config
_LONGEST = 2**63  # of an int


def encode(value: Any) -> Any:
    """``value`` as lists, dicts, texts and numbers."""
    if isinstance(value, SemanticOp):
        attributes = {each.name: encode(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return {_OP: type(value).__name__, **attributes}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if dataclasses.is_dataclass(value):
        return {each.name: encode(getattr(value, each.name)) for each in _fields(value.__class__)}
    if isinstance(value, (list, tuple)):
        return list(map(encode, value))
    if isinstance(value, Mapping):
        return {name: encode(item) for name, item in value.items()}
    return value


def decode(kind: Any, value: Any, infinities: bool = False) -> Any:
    """``value`` as the type ``kind``.

    Args:
        kind: a dataclass, or what its fields have as annotations.
        infinities: whether a float may be one.

    Raises:
        TypeError, ValueError: it is of another type, or no such value.
    """
    if kind is Any:
        return _plain(value, _DEEPEST)
    if kind is SemanticOp:
        kind = _OPS[_text(_of(dict, value).get(_OP))]
        value = {name: item for name, item in value.items() if name != _OP}
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return [decode(arguments[0], item, infinities) for item in _of(list, value)]
    if origin is tuple:
        kinds = [arguments[0]] * len(_of(list, value)) if arguments[1:] == (...,) else arguments
        return tuple(decode(each, item, infinities) for each, item in zip(kinds, value, strict=True))
    if origin in (dict, Mapping):
        return {_text(name): decode(arguments[1], item, infinities) for name, item in _of(dict, value).items()}
    if origin in (typing.Union, types.UnionType):
        (kind,) = (each for each in arguments if each is not types.NoneType)
        return None if value is None else decode(kind, value, infinities)
    if issubclass(kind, enum.Enum):
        return kind(_text(value))
    return _leaf(kind, value, infinities)


def _dataclass(kind: Any, value: Any) -> Any:
    hints, fields = _hints(kind), _fields(kind)
    if _of(dict, value).keys() != {each.name for each in fields}:
        raise TypeError(f"expected the fields of {kind.__name__}, found {list(value)}")
    infinities = issubclass(kind, _WITH_INFINITIES)
    made = kind(**{each.name: decode(hints[each.name], value[each.name], infinities) for each in fields})
    if isinstance(made, Refusal):
        for form in (made.found_form, made.remedy_form):
            if any(spec or conversion for _, _, spec, conversion in Formatter().parse(form)):
                raise ValueError(f"a text with a format: {form:.60}")
    return made


def _leaf(kind: type, value: Any, infinities: bool) -> Any:
    if kind is torch.dtype:
        return _DTYPES[_text(value)]
    if kind is str:
        return _text(value)
    if kind is float:
        number = value if type(value) in (float, int) else _of(float, value)
        if math.isnan(number) or (math.isinf(number) and not infinities):
            raise ValueError(f"expected a number, found {number}")
        return number
    if kind is int and abs(_of(int, value)) >= _LONGEST:
        raise ValueError("a number is too large")
    return _of(kind, value)


def _plain(value: Any, depth: int) -> Any:
    """A value without a declared type: what JSON has, not deeper than ``depth``."""
    if isinstance(value, (list, dict)) and depth == 0:
        raise ValueError("it is nested too deeply")
    if isinstance(value, list):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {_text(name): _plain(item, depth - 1) for name, item in value.items()}
    return value if value is None or type(value) is bool else _leaf(type(value), value, False)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:  # a bool is an int otherwise
        raise TypeError(f"expected {kind.__name__}, found {str(value):.60}")
    return value


def _text(value: Any) -> str:
    _of(str, value).encode()  # half of a pair of surrogates cannot be written
    return str(value)


@functools.cache
def _fields(kind: type) -> tuple[dataclasses.Field, ...]:
    return tuple(each for each in dataclasses.fields(kind) if each.name != "originals")  # hold modules, for verifying only


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
