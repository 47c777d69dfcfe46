# SPDX-License-Identifier: Apache-2.0
"""vLLM's whole compiler with the plug-in, on a CPU: cold and warm starts, the switch, partition, sizes without a value.

Needs vLLM (``make test-vllm``).  Each start is a process of its own, as servers are.
"""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.vllm.whole_compiler import Start

pytest.importorskip("vllm.envs")  # "vllm" alone would find this folder

CALLS = {"norm_quant": 2, "quant": 1}  # of one step


def run(start):
    program = [sys.executable, "-m", "tests.support.vllm.whole_compiler", json.dumps(dataclasses.asdict(start))]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(program, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["errors"]
    # fp8 values move by 1/16 where a last bit before does.
    assert all(step["error"] < 0.05 for step in found["steps"].values())
    return found


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """A start of a target and a draft model whose caches are empty, and what is started."""
    start = Start(cache=str(tmp_path_factory.mktemp("cache")), draft=True, reload=True)
    return start, run(start)


def test_a_cold_start_fuses_the_target_and_the_draft(cold):
    _, found = cold
    assert found["graphs"] == [{"norm_quant": 1}, {"norm_quant": 1, "quant": 1}, {"norm_quant": 1}]
    calls = {name: step["calls"] for name, step in found["steps"].items()}
    assert calls == dict.fromkeys(["target 8", "target 3", "reloaded"], CALLS) | dict.fromkeys(
        ["draft 8", "draft 3"], {"norm_quant": 1}
    )


def test_a_warm_start_runs_no_pass_and_gives_the_same_bits(cold):
    start, before = cold
    found = run(start)
    assert not found["graphs"] and found["hash"] == before["hash"]
    assert found["steps"] == before["steps"]


def test_the_switch_off_in_the_same_cache_is_vllms_own_code(cold):
    start, before = cold
    found = run(dataclasses.replace(start, switch=False, draft=False, reload=False))
    assert found["hash"] != before["hash"] and not found["graphs"]
    assert all(not step["calls"] for step in found["steps"].values())


def test_attention_in_the_graph_and_numbers_of_tokens_without_a_value(tmp_path):
    found = run(Start(cache=str(tmp_path), partition=True, shapes="unbacked"))
    assert found["graphs"] == [{"norm_quant": 2, "quant": 1}]
    assert [step["calls"] for step in found["steps"].values()] == [CALLS] * 2
