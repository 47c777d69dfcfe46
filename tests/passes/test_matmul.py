"""passes.spellings.matmul: scaled products."""

import programs
import pytest
import torch
from capture import capture

from passes.meanings import Matmul
from passes.reading import read


def arguments(m=16):
    q, scale = programs.torchao_quantize(programs.tensor(m, 64))
    return q, scale, *programs.weights()


@pytest.mark.parametrize("m", [1, 16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_row_wise_product(with_bias, m):
    bias = programs.tensor(48) if with_bias else None
    (region,) = read(capture(programs.matmul, *arguments(m), bias).graph).regions
    assert region.meaning == Matmul(dtype=torch.bfloat16, bias=with_bias)
    assert set(region.inputs) == {"a", "b", "a_scale", "b_scale"} | ({"bias"} if with_bias else set())
    assert region.outputs == {"out": (region.anchor,)}


def test_fast_accumulation_is_recorded():
    def program(q, scale, b, b_scale):
        return torch._scaled_mm(q, b.t(), scale, b_scale.t(), out_dtype=torch.float32, use_fast_accum=True)

    (region,) = read(capture(program, *arguments()).graph).regions
    assert region.meaning == Matmul(dtype=torch.float32, fast_accum=True)


def test_one_scale_a_tensor_is_refused():
    def program(q, scale, b, b_scale):
        return torch._scaled_mm(q, b.t(), torch.ones(()), torch.ones(()), out_dtype=torch.bfloat16)

    reading = read(capture(program, *arguments()).graph)
    assert not reading.regions
    (refusal,) = reading.refusals
    assert refusal.candidate == "matmul"
    assert refusal.reason.startswith("expected scales of shape [16, 1] and [1, 48], one a row and one a column, found []")
