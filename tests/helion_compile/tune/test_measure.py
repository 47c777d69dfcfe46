# SPDX-License-Identifier: Apache-2.0
"""What the tuner takes for a right result; measuring itself needs a GPU."""

import pytest
import torch

from helion_compile.tune.measure import GpuMeasurer, differs, in_order
from helion_compile.tune.worker import Worker, WorkerDied

FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_sentence_and_no_traceback(capfd):
    with pytest.raises(SystemExit, match="finds no GPU here"):
        GpuMeasurer()
    with pytest.raises(WorkerDied, match="exit code 1"):
        Worker("helion_compile.tune.measure:GpuMeasurer", (), {}, start="fork").request("gpu")
    assert capfd.readouterr().err.strip() == f"torch {torch.__version__} finds no GPU here."


@pytest.mark.parametrize("dtype", FP8)
def test_every_8_bit_value_is_one_step_from_the_next(dtype):
    every = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(dtype)
    finite = sorted({float(value) for value in every.float() if value.isfinite()})
    order = in_order(torch.tensor(finite).to(dtype)).tolist()
    assert order == list(range(order[0], order[0] + len(finite)))


@pytest.mark.parametrize("dtype", FP8)
def test_8_bits_may_be_a_step_away_and_no_more(dtype):
    want = X.to(dtype)
    bits = want.view(torch.uint8)
    assert differs(want, want) is None and differs((bits + 1).view(dtype), want) is None
    assert differs((bits + 2).view(dtype), want) == "is up to 2 fp8 steps from the reference"
    assert "fp8 steps from the reference" in differs(torch.zeros_like(want), want)


def test_what_is_not_finite_has_to_be_so_in_both():
    def fp8(*values, dtype=torch.float8_e5m2):
        return torch.tensor(values).to(dtype)

    inf, nan = float("inf"), float("nan")
    sentence = "is not finite where the reference is, or the other way round"
    assert differs(fp8(inf), fp8(57344.0)) == differs(fp8(nan), fp8(inf)) == sentence
    assert differs(fp8(nan, dtype=FP8[0]), fp8(448.0, dtype=FP8[0])) == sentence
    minus_nan = torch.tensor([255], dtype=torch.uint8).view(FP8[0])
    assert differs(fp8(nan, inf, 1.0), fp8(nan, inf, 1.0)) is differs(minus_nan, fp8(nan, dtype=FP8[0])) is None
    assert differs(fp8(inf), fp8(-inf)) == "is up to 248 fp8 steps from the reference"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_floats_may_be_four_units_of_precision_away_by_norm(dtype):
    want, eps = X.to(dtype), torch.finfo(dtype).eps
    assert differs(want, want) is None and differs(torch.nextafter(want, want * 2), want) is None
    assert "from the reference, more than" in differs((want.double() * (1 + 8 * eps)).to(dtype), want)
    assert "nan from the reference" in differs(torch.full_like(want, float("nan")), want)


def test_integers_shapes_and_layouts_have_to_be_equal():
    want = torch.arange(6).view(2, 3)
    assert differs(want, want) is None and differs(want + 1, want) == "is not equal to the reference"
    assert differs(want.t(), want) == "is torch.int64 (3, 2) where torch.int64 (2, 3) belongs"
    assert differs(want.float(), want) == "is torch.float32 (2, 3) where torch.int64 (2, 3) belongs"
