"""The README's Python runs as it stands, on a checkpoint of a few kilobytes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import fp8_models

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

# What the README takes from its reader: a GPU, a checkpoint and the tokens of a prompt.
BEFORE = """
import fp8_models, torch
from torchao.quantization import quant_api
quant_api._check_hardware_support = lambda granularity: None
fp8_models.ensure_row_wise_scaled_mm_on_cpu()
input_ids = torch.arange(8)[None]
"""
AFTER = """
print(logits.shape, len(report.sites), len(report.refusals))
"""


def test_the_example(tmp_path):
    fp8_models.qwen3().save_pretrained(tmp_path)
    use, look = BLOCKS
    assert len(use.strip().splitlines()) <= 10
    for given, ours in (("path/of/a/checkpoint", str(tmp_path)), (".cuda()", "")):
        assert given in use
        use = use.replace(given, ours)
    script = tmp_path / "readme.py"
    script.write_text(BEFORE + use + look + AFTER)
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    # lm_head is a linear too, so the README's model quantises it: the last norm is fused as well.
    total = "Total: 5 rms_norm_quant, 2 norm_rope, 2 quant, 2 activation_quant, 15 matmul kept, 2 refused."
    assert total in " ".join(done.stdout.split())
    assert done.stdout.endswith("torch.Size([1, 8, 512]) 11 2\n")
