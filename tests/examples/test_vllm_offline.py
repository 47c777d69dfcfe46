import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "vllm_offline.py"


def test_it_explains_itself():
    done = subprocess.run([sys.executable, EXAMPLE, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "MODEL is a checkpoint folder" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_sentence():
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True)
    assert done.returncode and "on a GPU, and torch finds none here" in done.stderr
