# SPDX-License-Identifier: Apache-2.0
"""The snippets that need a GPU, as they stand: beside them lies a folder with the name of the model that they load."""

import os
import re
import subprocess
import sys

import fp8_models
import pytest
import tokenizers
import transformers

from tests.support import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAME = "Qwen/Qwen3-8B"
WORDS = "the capital of france is paris and a an in on to".split()


@pytest.fixture
def folder(tmp_path):
    """A folder in which transformers finds a small model and its tokenizer under the model's name, before it asks a hub."""
    fp8_models.qwen3(head_dim=128, num_attention_heads=2, num_key_value_heads=1).save_pretrained(tmp_path / NAME)
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<eos>", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")
    fast.save_pretrained(tmp_path / NAME)
    return tmp_path


def run(folder, code):
    (folder / "snippet.py").write_text(code)
    variables = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run([sys.executable, "snippet.py"], cwd=folder, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quick_start_with_a_model(folder):
    _, on_a_gpu = BLOCK.findall((ROOT / "README.md").read_text())
    assert f'"{NAME}"' in on_a_gpu
    said = run(folder, on_a_gpu)
    assert "Graph 1 of 1" in said and "Total: " in said


def test_hugging_face_generate_and_pipeline(folder):
    first, *others = BLOCK.findall((ROOT / "docs" / "hugging-face.md").read_text())
    said = run(folder, "\n".join([first, *(code for code in others if "cuda" in code)]))
    assert said.count("Graph 1 of ") == 2, said
