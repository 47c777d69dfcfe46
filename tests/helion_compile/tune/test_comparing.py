# SPDX-License-Identifier: Apache-2.0
"""Helion's autotuner beside ours, as far as no GPU is needed: which cases, what is said, and what ends a search."""

import math
import sys
import time

import pytest

from helion_compile.configs.case import Case
from helion_compile.configs.row import Row
from helion_compile.tune import autotune
from helion_compile.tune.autotune import autotuned
from helion_compile.tune.cases import TuneError
from helion_compile.tune.comparing import Comparison, on_this_gpu, sample, summary
from helion_compile.tune.tuner import Settings

CASE = Case(dtype="bf16", hidden_size=4096, num_tokens=1, residual=False)


def test_the_sample_is_spread_over_the_rows_and_leaves_fallbacks_out():
    rows = [("quant", Row(CASE.replace(num_tokens=m), {"num_warps": 4})) for m in range(100)]
    assert [row.case["num_tokens"] for _, row in sample(rows, 4)] == [12, 37, 62, 87]
    assert [row.case["num_tokens"] for _, row in sample(rows[:3], 8)] == [0, 1, 2]
    library = [("scaled_mm", Row(CASE, {"fallback": "library"}))]
    assert sample(library * 9 + rows[:1], 8) == rows[:1] and sample(library, 8) == []


def test_the_summary_leaves_out_what_was_not_compared_and_says_so():
    def compared(ours, theirs, reason=None):
        return Comparison("quant", CASE.to_json(), {}, {}, ours, theirs, reason)

    text = summary([compared(2.0, 2.0), compared(2.2, 2.0), compared(9.0, 1.0, "its result is wrong"), compared(None, None)])
    assert text.startswith("2 of 4 cases compared") and f"{math.sqrt(1.1):.3f} times" in text and "1.100 at worst" in text
    assert text.endswith("1 within 3%")
    assert summary([compared(None, None, "no")]) == "none of 1 cases could be compared with Helion's autotuner"


def test_without_a_process_that_can_measure_a_sentence(tmp_path):
    settings = Settings(journal=tmp_path, measurer="tests.support.tune_fakes:NoSuchMeasurer", start="forkserver")
    with pytest.raises(TuneError, match="nothing can be compared here: the process ended with exit code 1; what was tuned is"):
        on_this_gpu([], settings, 1.0, print, None)


def command(code):
    return sys.executable, "-c", f"import json, sys, time; asked = json.loads(sys.argv[1]); {code}"


def test_a_search_answers_with_its_config():
    code = "open(asked['answer'], 'w').write(json.dumps({'num_warps': len(asked['modules']), 'of': asked['kernel']}))"
    assert autotuned("quant", CASE, 1.0, ("a", "b"), {}, command(code)) == {"num_warps": 2, "of": "quant"}


def test_a_search_that_fails_or_does_not_end_is_one_sentence(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"ended with exit code 1: .*NoConfigFound"):
        autotuned("quant", CASE, 1.0, (), {}, command("raise RuntimeError('NoConfigFound')"))
    monkeypatch.setattr(autotune, "START_AND_END_SECONDS", 1.0)
    child = tmp_path / "child"
    # It leaves a process of its own behind, as a search does that is ended: both have to go.
    forever = (
        f"import subprocess; subprocess.Popen(['sh', '-c', 'while :; do date > {child}; sleep 0.1; done']); time.sleep(99)"
    )
    with pytest.raises(ValueError, match="had not ended 1 s after its budget"):
        autotuned("quant", CASE, 0.5, (), {}, command(forever))
    child.unlink()
    time.sleep(0.4)
    assert not child.exists()


@pytest.mark.slow
def test_without_a_gpu_the_real_search_says_so():
    with pytest.raises(ValueError, match="exit code 1: .*(CUDA|NVIDIA)"):
        autotuned("quant", Case(dtype="bf16", hidden_size=64, num_tokens=1), 1.0, ("helion_compile.kernels",), {})
