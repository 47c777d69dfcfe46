"""No spelling is fused to a kernel that computes something else: fused in `exact`, every one keeps its bits."""

import sys
from pathlib import Path

import pytest
import torch

from helion_compile.fusions import fusions

sys.path.append(str(Path(__file__).parents[1] / "passes"))

import programs
from checks import rewritten
from conformance import arguments
from spelled_norms import NORMS
from spelled_quantisers import QUANTISERS

BF16 = torch.bfloat16


@pytest.mark.parametrize("row", QUANTISERS, ids=str)
def test_a_quantiser(row):
    _, record = rewritten(row.function, *arguments(row, BF16).values(), fusions=fusions("exact"))
    assert len(record.sites) + len(record.refusals) >= 1


@pytest.mark.parametrize("row", NORMS, ids=str)
def test_a_norm_that_is_quantised(row):
    def program(*args):
        out = row.function(*args)
        out, *rest = out if isinstance(out, tuple) else (out,)
        return (*programs.torchao_quantize(out), *rest)

    _, record = rewritten(program, *arguments(row, BF16).values(), fusions=fusions("exact"))
    assert len(record.sites) == 1  # with its norm, or the quantiser alone
