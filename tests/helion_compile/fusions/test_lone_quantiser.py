# SPDX-License-Identifier: Apache-2.0
"""A quantiser that no fusion takes together with what computes its values: a kernel of its own only where that is no loss.

Inductor puts it into the kernel of pointwise code, so that the values never go through memory.  A matmul's or attention's
result is in memory anyway.
"""

import re

import pytest
import torch
from torch.nn.functional import embedding, rms_norm

from tests.support.corpus.quantisers import torchao_row, without_clamp
from tests.support.fusing import assert_bit_equal, fused, randn, run

K = 64
X, Y, W = randn(40, K), randn(40, K, seed=1), randn(K, K, seed=2)
HEADS = randn(2, 10, 4, 16, seed=3)


@torch.library.custom_op("test_lone_quantiser::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


double.register_fake(torch.empty_like)


def static(x):
    return (x.float() / torch.full((1,), 0.5)).clamp(-448, 448).to(torch.float8_e4m3fn)


def attention(heads):
    q = heads.transpose(1, 2)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)[0].transpose(1, 2).flatten(2)


def second_quantiser(x, w):
    y = rms_norm(x, (K,), w[0], 1e-6)
    return *torchao_row(y), *without_clamp(y)


def quantised_sum(x, y, w):
    total = x + y
    return *torchao_row(rms_norm(total, (K,), w[0], 1e-6)), *torchao_row(total)


INDUCTORS = {
    "pointwise code": (lambda x: torchao_row(x.sin()), X),
    "a gate behind attention": (lambda heads: torchao_row(attention(heads) * heads.flatten(2).sigmoid()), HEADS),
    "a sum behind a matmul": (lambda x, w, y: torchao_row(x @ w + y), X, W, Y),
    "a norm over another dimension": (lambda x: torchao_row(x / x.float().norm(dim=0).to(x.dtype)), X),
    "a cast": (lambda x, w: torchao_row((x.float() @ w.float()).bfloat16()), X, W),
    "a view of pointwise code": (lambda x: torchao_row(x.sin().view(20, 2, K)[:, 0]), X),
    "heads side by side, as a clone": (lambda heads: torchao_row(heads.transpose(1, 2).flatten(2)), HEADS),
    "rows of a table": (lambda x, w: torchao_row(embedding(x.float().abs().argmin(-1), w)), X, W),
}
OURS = {
    "a graph's input": (torchao_row, X),
    "a matmul": (lambda x, w: torchao_row(x @ w), X, W),
    "a part of a matmul's rows": (lambda x, w: torchao_row((x @ w)[:, : K // 2]), X, W),
    "attention": (lambda heads: torchao_row(attention(heads)), HEADS),
    "an operator of a library": (lambda x: torchao_row(double(x)), X),
    "means over tokens": (lambda x: torchao_row(x.view(8, 5, K).float().mean(1)), X),
    "scattered rows": (lambda x, y: torchao_row(x.index_add(0, torch.arange(40), y)), X, Y),
    "a norm that our kernel writes": (second_quantiser, X, W),
    "a sum that our kernel writes": (quantised_sum, X, Y, W),
}


@pytest.mark.parametrize("case", INDUCTORS)
def test_left_to_inductor(case):
    function, *args = INDUCTORS[case]
    _, record = run(function, *args)
    assert not record.sites and not record.refusals
    (kept,) = (kept for kept in record.kept if kept.fusion == "quant")
    assert "into whose kernel Inductor puts the quantiser" in str(kept.refusal)


@pytest.mark.parametrize("case", OURS)
def test_a_kernel_of_its_own(case):
    function, *args = OURS[case]
    _, record = run(function, *args)
    assert fused(record)[-1] == "quant" and not [kept for kept in record.kept if kept.fusion == "quant"]


def test_exact_takes_the_kernel_for_its_bits():
    function = INDUCTORS["pointwise code"][0]
    results, record = run(function, X, numerics="exact")
    assert fused(record) == ["quant"]
    assert_bit_equal(results, run(function, X, numerics="exact", only=[])[0])


def test_three_that_quantise_one_value_are_computed_once():
    def projections(x):
        y = x.sin()
        return [part for _ in range(3) for part in torchao_row(y.view(-1, K))]

    _, record = run(projections, X)
    (kept,) = record.kept
    assert not record.sites and kept.merged == 3
    results, _ = run(projections, X)
    assert len({part.data_ptr() for part in results[::2]}) == 1


@pytest.mark.parametrize("quantize", [torchao_row, static])
def test_no_tensor_more_than_inductor_alone_makes(quantize):
    """In generated code: what lies between the function and the quantised bytes."""

    def function(x, w):
        q = quantize(torch.relu(x) * 3)
        return (q[0] if isinstance(q, tuple) else q).float() @ w.float()

    found = {}
    for backend in ("inductor", "helion"):
        torch._dynamo.reset()
        with torch.no_grad():
            _, (code,) = torch._inductor.utils.run_and_get_code(torch.compile(function, backend=backend), X, W)
        found[backend] = re.findall(r"empty_strided_cpu\(.*\)", code[code.index("def call(") :])
    assert found["helion"] == found["inductor"]
