# SPDX-License-Identifier: Apache-2.0
"""The schema of the report's JSON, and what in a report is not as it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema

from tests.support import ROOT

__all__ = ["SCHEMA", "problems"]

SCHEMA = json.loads((ROOT / "helion_compile" / "reports" / "report.schema.json").read_text())


def problems(value: Any, schema: dict[str, Any]) -> Iterator[str]:
    """What in ``value`` is not as ``schema`` says."""
    jsonschema.Draft202012Validator.check_schema(schema)
    yield from (f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(value))
