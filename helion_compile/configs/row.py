# SPDX-License-Identifier: Apache-2.0
"""One row of a config table: a case, its config, how fast it was, and what it was made with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helion_compile.configs.case import Case
from helion_compile.errors import check_type, truncate

__all__ = ["ConfigError", "Row", "current_config", "is_duration"]

_FIELDS = ("case", "config", "us", "baselines", "made_with")
_LONGEST_CALL = 1e12  # microseconds, eleven days; a whole number of any size can be compared, not computed with


class ConfigError(RuntimeError):
    """A config table cannot be read or written, in one sentence."""


@dataclass(frozen=True)
class Row:
    """A measured config.

    Attributes:
        case: the key fields it was measured for.
        config: what ``helion.Config(**config)`` takes. Treat it as read-only.
        us: microseconds a call, or None when nobody measured it.
        baselines: microseconds of what it was measured against, by name (``"inductor"``, ``"library"``).
        made_with: versions of ``helion``, ``triton`` and ``torch``, the ``kernel`` fingerprint, ``gpu``, ``arch``,
            ``date``; all optional.
        extra: fields of the file that this version does not know, kept when the file is written again.
        file, index: where the row was read, for messages; no part of its value.
    """

    case: Case
    config: Mapping[str, Any]
    us: float | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = field(default=None, compare=False)
    index: int = field(default=-1, compare=False)

    def __post_init__(self) -> None:
        check_type("Row(case=…)", self.case, Case, "a Case, such as Case(num_tokens=16)")
        for name in ("config", "baselines", "made_with", "extra"):
            check_type(f"Row({name}=…)", getattr(self, name), Mapping, "a dict of names and values")
        check_type("Row(file=…)", self.file, (str, Path, type(None)), "the path that it was read from, or None")
        check_type("Row(index=…)", self.index, int, "its place in that file")
        if self.us is not None and not is_duration(self.us):
            raise TypeError(f"Row(us=…) is {truncate(self.us)}; give microseconds, or None where nobody measured it.")

    # The generated hash would meet the dicts.
    def __hash__(self) -> int:
        return hash((self.case, self.kernel))

    @classmethod
    def from_json(cls, fields: object, file: Path | None = None, index: int = -1) -> Row:
        """The row that :meth:`to_json` wrote.

        Raises:
            ConfigError: a field is missing or of the wrong type; the sentence names the field, not the file.
        """
        if not isinstance(fields, dict):
            raise ConfigError(f"is {truncate(fields)} where an object with case and config belongs")
        try:
            case = Case.from_json(fields.get("case"))
        except ValueError as error:
            raise ConfigError(f"has a bad case ({error})") from None
        us = fields.get("us")
        if us is not None and not is_duration(us):
            raise ConfigError(f"has us={truncate(us)} where microseconds or null belong")
        baselines = _object(fields, "baselines")
        for name, value in baselines.items():
            if not is_duration(value):
                raise ConfigError(f"has {truncate(value)} microseconds for the baseline {truncate(name)}")
        if not fields.get("config"):
            raise ConfigError("has no config")
        return cls(
            case=case,
            config=current_config(_object(fields, "config")),
            us=us,
            baselines=baselines,
            made_with=_object(fields, "made_with"),
            extra={name: value for name, value in fields.items() if name not in _FIELDS},
            file=file,
            index=index,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "case": self.case.to_json(),
            "config": dict(self.config),
            "us": self.us,
            "baselines": dict(self.baselines),
            "made_with": dict(self.made_with),
            **self.extra,
        }

    def checked(self) -> Row:
        """This row as a file would give it back; ``ConfigError`` when JSON cannot hold it."""
        try:
            return Row.from_json(json.loads(json.dumps(self.to_json(), allow_nan=False)))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"is not JSON ({error})") from None

    @property
    def kernel(self) -> str | None:
        """The fingerprint of the kernel it was measured with, or None where the file does not say."""
        kernel = self.made_with.get("kernel")
        return kernel if isinstance(kernel, str) else None

    @property
    def arch(self) -> str | None:
        """The architecture it was measured on, like ``"sm_90"``, or None where the file does not say."""
        arch = self.made_with.get("arch")
        return arch if isinstance(arch, str) else None

    @property
    def where(self) -> str:
        """``row 3 of …/nvidia_h200.json``, for messages."""
        return f"row {self.index} of {self.file}" if self.file else "a row that is in no file"


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"has {name}={truncate(value)} where an object belongs")
    return value


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it is written now: before, ``{"fallback": name}`` was ``{"alternative": name}``."""
    return {"fallback": config["alternative"]} if set(config) == {"alternative"} else dict(config)


def is_duration(value: object) -> bool:
    """Whether it can be microseconds: a number, finite, and none that overflows when it is computed with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _LONGEST_CALL
