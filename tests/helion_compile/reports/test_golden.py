# SPDX-License-Identifier: Apache-2.0
"""The report of a Qwen3 of two layers, word for word.

Where it changes on purpose, write it anew and read the difference:
    python -m pytest tests/helion_compile/reports/test_golden.py --write-golden
"""

import dataclasses
import re
from pathlib import Path

import fp8_models
import pytest
import torch
import transformers

from helion_compile import explain
from helion_compile.reports.text import render

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("2.13.", "5.23.0")  # of torch, whose graphs it shows, and of transformers, whose lines it names


@pytest.mark.skipif(
    not torch.__version__.startswith(VERSIONS[0]) or transformers.__version__ != VERSIONS[1],
    reason=f"written with torch {VERSIONS[0]}x and transformers {VERSIONS[1]}",
)
@pytest.mark.parametrize("name", ["qwen3", "qwen3_verified"])
def test_the_report_of_a_qwen3(name, request):
    model = fp8_models.quantize_fp8_per_row(fp8_models.qwen3())
    # Verified in "exact" numerics, where nothing differs on any CPU.
    verified = {"verify": True, "options": {"numerics": "exact"}} if name == "qwen3_verified" else {}
    found = explain(model, fp8_models.token_ids(model, 2, 16), **verified)
    identity = dataclasses.replace(found.identity, versions={}, date="2026-11-28T15:30+00:00", command="python model.py")
    text = render(dataclasses.replace(found, identity=identity), 100) + "\n"
    # Fingerprints change with every edit of a kernel's sources.
    found = re.sub(r"(?<=@)[0-9a-f]{8}\b", "…", text)
    file = GOLDEN / f"{name}.txt"
    if request.config.getoption("--write-golden"):
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8")
