# SPDX-License-Identifier: Apache-2.0
"""The demo as a user runs it."""

import os
import subprocess
import sys

import fp8_models
import pytest

from tests.support import ROOT

DEMO = ROOT / "examples" / "demo.py"


@pytest.mark.timeout(600)
def test_the_demo_runs_on_a_checkpoint_folder(tmp_path):
    fp8_models.qwen3(num_hidden_layers=1).save_pretrained(tmp_path)
    demo = subprocess.run(
        [sys.executable, DEMO, "--model", tmp_path, "--device", "cpu", "--shape", "1", "4"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for heading in ("What was rewritten", "The FX graph of one layer", "Numbers", "Times"):
        assert heading in demo.stdout
    for shown in (
        "norm_quant in model.layers.0.self_attn.q_proj\n    source   transformers/models/qwen3/modeling_qwen3.py:",
        "helion_kernel(embedding, ",
        "error against fp64",
    ):
        assert shown in demo.stdout
    total = "Total: 2 norm_quant, 1 norm_rope, 1 quant, 1 activation_quant, 7 matmul kept, 1 refused."
    assert total in " ".join(demo.stdout.split())  # behind a line break, as plain text is wrapped
    layer = demo.stdout.partition("The FX graph of one layer")[2].partition("Numbers")[0]
    assert layer.count(" = helion_kernel(") == 5 and layer.count("aten._scaled_mm.default(") == 7
    assert "site-packages" not in demo.stdout
    ways = ["eager", "inductor", "helion"]
    first_words = [line.split()[0] for line in demo.stdout.splitlines() if line.strip()]
    assert [word for word in first_words if word in ways] == ways * 2  # numbers, and times
