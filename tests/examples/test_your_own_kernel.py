# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

from tests.support import ROOT


def test_it_prints_one_node_and_the_refusal():
    command = [sys.executable, ROOT / "examples" / "your_own_kernel.py"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "checked with (Tensor [16, 256], Tensor [16, 256]): no mistakes" in done.stdout
    assert done.stdout.count("torch.ops.higher_order.helion_kernel(") == 1
    assert "silu_mul cannot take these arguments: gate is (16, 256) and up (8, 256); they must have one shape." in done.stdout
