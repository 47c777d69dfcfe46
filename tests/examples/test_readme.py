"""The README's Python runs as it stands, on a checkpoint of a few kilobytes, and its figures are those of the tables."""

import json
import os
import re
import subprocess
import sys

import fp8_models

from helion_compile.configs.files import shipped_folder
from helion_compile.configs.row import Row
from helion_compile.fusions.profitability import beaten_by_inductor
from tests.support import ROOT

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
    total = "Total: 5 norm_quant, 2 norm_rope, 2 quant, 2 activation_quant, 15 matmul kept, 2 refused."
    assert total in " ".join(done.stdout.split())
    assert done.stdout.endswith("torch.Size([1, 8, 512]) 11 2\n")


def test_what_stays_with_inductor_is_as_the_tables_have_it():
    rows = [Row.from_json(row) for file in shipped_folder().glob("*/*.json") for row in json.loads(file.read_text())]
    rows = [row for row in rows if "library" not in row.baselines]  # a product is compared with the library's
    left = [row for row in rows if beaten_by_inductor(row)]
    assert max(row.case["num_tokens"] for row in left) == 64
    ranges = [row for row in left if "static" not in row.case.fields]  # graphs for a range leave these to Inductor
    slower = max(row.us / row.baselines["inductor"] - 1 for row in ranges)
    longer = max(row.us - row.baselines["inductor"] for row in ranges)
    for file, count in (
        ("README.md", f"({len(left)} of {len(rows)} cases, up to 64 tokens)"),
        ("docs/design.md", f"{len(left)} of the {len(rows)}"),
    ):
        text = (ROOT / file).read_text()
        assert count in text and f"cases up to {slower * 100:.0f} % ({longer:.2f} µs) slower" in text
