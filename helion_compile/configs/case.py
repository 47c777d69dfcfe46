# SPDX-License-Identifier: Apache-2.0
"""The key fields a tuned config depends on, as a value: ``Case(hidden_size=4096, num_tokens=16, dtype="bf16")``."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from functools import total_ordering
from types import MappingProxyType
from typing import Any, TypeAlias

from helion_compile.errors import check_names, truncate

__all__ = ["Case", "FieldValue"]

FieldValue: TypeAlias = int | float | bool | str | None

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_RESERVED_WORDS = {"true", "false", "null"}
_LONGEST = 200  # characters
_LARGEST = 2**63 - 1
_set = object.__setattr__
_DTYPES = {
    "torch.bfloat16": "bf16",
    "torch.float16": "fp16",
    "torch.float32": "fp32",
    "torch.float64": "fp64",
    "torch.float8_e4m3fn": "e4m3",
    "torch.float8_e5m2": "e5m2",
    "torch.int8": "int8",
}


@total_ordering
class Case(Mapping[str, FieldValue]):
    """Immutable, hashable, ordered key fields; a mapping from names to plain values.

    A value is an ``int`` of 64 bits, a finite ``float``, a ``bool``, a ``str`` or ``None``; a ``torch.dtype`` is kept
    under its short name (``"bf16"``). Key fields have no order, a whole ``float`` is the same value as the ``int``, and
    ``True`` is not ``1``. ``Case()`` is the default case: the one that says nothing and so fits everything.

    Cases order by their key fields, numbers by size: ``num_tokens=16`` comes before ``num_tokens=128``.

    Raises:
        ValueError: a key field has no such plain value, or a name is not an identifier.
    """

    __slots__ = ("_fields", "_hash", "_text")
    _fields: Mapping[str, FieldValue]
    _hash: int
    _text: str

    def __init__(self, /, **fields: Any) -> None:
        plain: dict[str, FieldValue] = {}
        words: list[str] = []
        for name in sorted(fields):
            value = fields[name]
            if type(value) is not int or not -_LARGEST <= value <= _LARGEST:
                value = _plain(name, value)
            plain[name] = value
            words.append(f"{_checked(name)}={value if type(value) is int else _word(value)}")
        text = " ".join(words) or "default"
        _set(self, "_fields", MappingProxyType(plain))
        _set(self, "_text", text)
        _set(self, "_hash", hash(text))

    @classmethod
    def from_json(cls, fields: object) -> Case:
        """The case that :meth:`to_json` wrote; ``ValueError`` in one sentence for anything else."""
        if not isinstance(fields, dict):
            raise ValueError(f'a case is an object of key fields like {{"num_tokens": 16}}, not {truncate(fields)}')
        return cls(**fields)

    def to_json(self) -> dict[str, FieldValue]:
        return dict(self._fields)

    @property
    def fields(self) -> Mapping[str, FieldValue]:
        """The key fields by name, in alphabetical order, read-only."""
        return self._fields

    def replace(self, /, **fields: Any) -> Case:
        """This case with some key fields changed or added."""
        return Case(**{**self._fields, **fields})

    def without(self, names: Collection[str]) -> Case:
        """This case with the key fields of these names left out, where it has them."""
        left_out = check_names("Case.without(names)", names, "case.without(['num_tokens'])")
        return Case(**{name: value for name, value in self._fields.items() if name not in left_out})

    def __getitem__(self, name: str) -> FieldValue:
        try:
            return self._fields[name]
        except KeyError:
            raise KeyError(f"the case ({self}) has no key field {name!r}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    # The text names every key field without ambiguity, so it stands for the case: one string, compared and hashed in C.
    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Case) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self.order < other.order if isinstance(other, Case) else NotImplemented

    @property
    def order(self) -> tuple[tuple[str, int, Any], ...]:
        """What cases order by; as the key of a sort ten times as fast as comparing each two."""
        return tuple([(name, *_rank(value)) for name, value in self._fields.items()])

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Case({', '.join(f'{name}={value!r}' for name, value in self._fields.items())})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Case does not change: use case.replace({name}=…)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Case does not change: use case.without([{name!r}])")

    def __reduce__(self) -> tuple[Any, ...]:
        # The hash of a str differs from process to process, so a pickled case is built anew.
        return Case.from_json, (self.to_json(),)


@functools.lru_cache(256)
def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise ValueError(f"a key field is named by an identifier like num_tokens, not {truncate(name)}")
    return name


def _plain(name: str, value: Any) -> FieldValue:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -_LARGEST <= value <= _LARGEST:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() and abs(value) <= 2**53 else float(value)
    if isinstance(value, str) and len(value) <= _LONGEST:
        return str.__str__(value)
    if (dtype := str(value) if type(value).__module__ == "torch" else "") in _DTYPES:
        return _DTYPES[dtype]
    raise ValueError(
        f"the key field {name} is {truncate(value)} ({type(value).__name__}), and a case holds 64-bit int, finite float, "
        f"bool, None and str of up to {_LONGEST} characters: pass the plain value"
    )


@functools.lru_cache(256, typed=True)
def _word(value: FieldValue) -> str:
    if isinstance(value, str) and _BARE_WORD.fullmatch(value) and value not in _RESERVED_WORDS:
        return value
    return json.dumps(value)


def _rank(value: FieldValue) -> tuple[int, Any]:
    if value is None:
        return 0, 0
    if isinstance(value, bool):
        return 1, value
    return (3, value) if isinstance(value, str) else (2, value)
