# SPDX-License-Identifier: Apache-2.0
import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from tests.support import ROOT

EXAMPLE = ROOT / "examples" / "vllm_offline.py"


def test_it_explains_itself():
    done = subprocess.run([sys.executable, EXAMPLE, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "MODEL is a checkpoint folder" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_sentence():
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True)
    assert done.returncode and "on a GPU, and torch finds none here" in done.stderr


VLLM = """
import os
from types import SimpleNamespace

class SamplingParams:
    def __init__(self, **options):
        assert options["max_tokens"] == 8

class LLM:
    def __init__(self, model, **options):
        assert model == "a/model"
        print("INFO starting")

    def generate(self, prompts, sampling, use_tqdm):
        assert len(prompts) == 4
        return [SimpleNamespace(outputs=[SimpleNamespace(text="with " + os.environ["HELION_COMPILE_VLLM"])])]

    def __del__(self):
        print("INFO ending")
"""


def test_both_runs_are_printed(tmp_path, monkeypatch, capsys):
    (tmp_path / "vllm.py").write_text(VLLM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["vllm_offline.py", "a/model", "--batch", "4", "--new", "8"])
    spec = importlib.util.spec_from_file_location("vllm_offline", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main()
    plain, ours, verdict = capsys.readouterr().out.splitlines()
    assert plain.startswith("vLLM as it comes: ") and plain.endswith("ms for 4 x 8 tokens: 'with 0'")
    assert ours.startswith("with helion-compile: ") and ours.endswith("'with 1'")
    assert verdict.endswith("times as fast; the answers are equal: False")
