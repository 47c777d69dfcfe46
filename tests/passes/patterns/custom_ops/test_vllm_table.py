# SPDX-License-Identifier: Apache-2.0
"""vllm_table against the schemas of every version of vLLM that it claims (``schemas/<version>.json``)."""

import json

import pytest
import torch

from helion_compile.passes.compat import VLLM
from helion_compile.passes.patterns.custom_ops.op_call import format_argument
from helion_compile.passes.patterns.custom_ops.vllm_table import OPERATORS
from tests.support.vllm.take_snapshot import SCHEMAS


def test_every_version_that_is_claimed_has_a_snapshot_and_no_other_has():
    assert {path.stem for path in SCHEMAS.iterdir()} == set(VLLM)
    claimed = {version for rows in OPERATORS.values() for row in rows for version in row.versions}
    assert claimed == set(VLLM)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("version", VLLM)
def test_the_row_of_a_version_has_its_arguments(version, name):
    snapshot = json.loads((SCHEMAS / f"{version}.json").read_text())
    rows = [row for row in OPERATORS[name] if version in row.versions]
    schema = snapshot.get(name.removesuffix(".default"))
    assert len(rows) == (schema is not None), "one row for an operator that the version has, and none for another"
    for row in rows:
        arguments = torch._C.parse_schema(schema).arguments
        assert " ".join(map(format_argument, arguments)) == row.arguments


def test_every_row_is_of_some_version():
    assert [row.name for rows in OPERATORS.values() for row in rows if not row.versions] == []
