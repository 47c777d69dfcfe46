# SPDX-License-Identifier: Apache-2.0
"""As much of JSON Schema as ``report.schema.json`` is written in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.support import ROOT

__all__ = ["SCHEMA", "problems"]

SCHEMA = json.loads((ROOT / "helion_compile" / "reports" / "report.schema.json").read_text())

_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
_KNOWN = {
    "$schema",
    "$defs",
    "$ref",
    "title",
    "description",
    "type",
    "const",
    "enum",
    "properties",
    "required",
    "additionalProperties",
    "items",
}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, path: str = "report") -> Iterator[str]:
    """What in ``value`` is not as ``schema`` says.

    Raises:
        NotImplementedError: the schema uses a keyword that this does not check.
    """
    root = root or schema
    if unknown := schema.keys() - _KNOWN:
        raise NotImplementedError(f"{path}: {unknown}")
    if "$ref" in schema:
        yield from problems(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(value, name) for name in types):
        yield f"{path}: {value!r} is not {' or '.join(types)}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{path}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if isinstance(value, dict):
        named, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        yield from (f"{path}: {name} is missing" for name in schema.get("required", ()) if name not in value)
        for name, item in value.items():
            if name in named:
                yield from problems(item, named[name], root, f"{path}.{name}")
            elif others is False:
                yield f"{path}: {name} is not in the schema"
            elif isinstance(others, dict):
                yield from problems(item, others, root, f"{path}.{name}")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from problems(item, schema["items"], root, f"{path}[{index}]")


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (not isinstance(value, bool) or name == "boolean")
