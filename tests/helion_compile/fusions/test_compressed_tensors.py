# SPDX-License-Identifier: Apache-2.0
"""The fp8 linears of transformers' compressed-tensors checkpoints: rows of zeros have a scale of their own there."""

import pytest
import torch

from tests.support.fusing import E4M3, assert_bit_equal, fused, randn, refused, run
from tests.support.needs import row_wise_products
from tests.support.numerics import assert_products_near

integration = pytest.importorskip("transformers.integrations.compressed_tensors")
pytestmark = row_wise_products

TOKENS, K, N = 6, 64, 48


def norm(x, weight):
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def linear(seed):
    module = integration.CompressedTensorsFP8Linear(K, N).requires_grad_(False)
    module.weight.data = randn(N, K, seed=seed).to(E4M3)
    module.weight_scale.data = randn(1, N, dtype=torch.float32, seed=seed + 1).abs() / 100
    return module


def inputs(dtype=torch.bfloat16):
    x = randn(2, TOKENS, K, dtype=dtype)
    x[0, 1] = 0
    x[0, 2] *= 1e-30
    return x


@pytest.fixture
def layer():
    linears = [linear(seed) for seed in (1, 3, 5)]

    def program(x, residual, weight):
        total = x + residual
        return *(module(norm(total, weight)) for module in linears), total

    return program


@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_a_norm_and_what_reads_it(layer, numerics):
    args = inputs(), inputs(), 1 + 0.1 * randn(K, seed=9)
    results, record = run(layer, *args, numerics=numerics)
    assert fused(record) == ["norm_quant"] and record.sites[0].merged == 3
    assert all(not result[0, 1].any() for result in results)  # zeros stay zeros, where 0 / 0 would be NaN
    expected, _ = run(layer, *args, only=[])
    if numerics == "exact":
        assert_bit_equal(results, expected)
    else:
        for result, value in zip(results, expected, strict=True):
            assert_products_near(result, value)


@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_no_bit_of_a_product_depends_on_the_scale_of_zeros(numerics):
    """Rows of zeros, of the smallest numbers, with an infinity and with a NaN."""
    module, x = linear(1), inputs()
    x[1, 1], x[1, 2, 3], x[1, 3, 5] = 2.0**-133, torch.inf, torch.nan
    result, record = run(module, x, numerics=numerics)
    assert fused(record) == ["quant"]
    assert_bit_equal([result], [run(module, x, only=[])[0]])


class TestLeftAlone:
    def test_a_scale_that_something_else_reads(self):
        def program(x):
            return integration.quantize_fp8_per_row(x)

        reason = "rows of zeros have a scale of their own, which output at"
        refused(program, inputs()[0], reason=reason)

    def test_fp32(self):
        reason = "x is fp32; divided rows of 16 bits fuse"
        refused(linear(1), inputs(torch.float32), reason=reason)
