# SPDX-License-Identifier: Apache-2.0
"""torchao where it finds MSLK, and transformers' FBGEMM linears: quantisers and products that are operators by name.

The operators stand here as plain torch, as the libraries need a GPU.
"""

import pytest
import torch
import torchao.quantization
from torchao.quantization.quantize_.workflows.float8 import float8_tensor

from tests.support import stubs
from tests.support.fusing import assert_bit_equal, fused, randn, refused, run
from tests.support.numerics import assert_products_near

E4M3 = torch.float8_e4m3fn
K, N = 64, 48


@pytest.fixture(autouse=True)
def operators():
    with stubs.libraries():
        yield


@pytest.fixture
def layers(monkeypatch):
    """Three linears of torchao behind a norm, as on a GPU of today with MSLK installed."""
    monkeypatch.setattr(float8_tensor, "_is_mslk_available", lambda: True)
    monkeypatch.setattr(float8_tensor, "is_sm_at_least_90", lambda: True)
    monkeypatch.setattr(torchao.quantization.quant_api, "_check_hardware_support", lambda *args, **kwargs: None)
    linears = torch.nn.ModuleList(torch.nn.Linear(K, N, bias=index > 0) for index in range(3)).bfloat16().requires_grad_(False)
    config = torchao.quantization.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.quantization.PerRow())
    config.set_inductor_config = False
    torchao.quantization.quantize_(linears, config)

    def program(x, weight):
        x32 = x.float()
        normed = weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return [linear(normed) for linear in linears]

    return program


def test_torchao(layers):
    args = randn(2, 8, K), 1 + 0.1 * randn(K, seed=9)
    results, record = run(layers, *args)
    assert fused(record) == ["norm_quant"] and record.sites[0].merged == 3
    assert len(record.kept) == 3  # the products
    for result, expected in zip(results, run(layers, *args, only=[])[0], strict=True):
        assert_products_near(result, expected)


def test_one_division_is_not_a_reciprocal_and_a_product(layers):
    args = randn(2, 8, K), 1 + 0.1 * randn(K, seed=9)
    refused(layers, *args, numerics="exact", reason="x is multiplied by qmax / amax of one division")


@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_transformers(numerics):
    """FbgemmFp8Linear: a bound above the magnitude, and rows of two dimensions."""
    weight, scale = randn(N, K, seed=1).to(E4M3), randn(N, 1, dtype=torch.float32, seed=2).abs()

    def program(x, scale_ub):
        rows = x.view(-1, K).contiguous()
        q, x_scale = torch.ops.fbgemm.quantize_fp8_per_row(rows, scale_ub=scale_ub)
        out = torch.ops.fbgemm.f8f8bf16_rowwise(q, weight, x_scale, scale, use_fast_accum=True)
        return out.reshape(2, 8, N)

    args = randn(2, 8, K), torch.tensor([1.5])
    result, record = run(program, *args, numerics=numerics)
    assert fused(record) == ["quant"]
    expected, _ = run(program, *args, only=[])
    if numerics == "exact":
        assert_bit_equal([result], [expected])
    else:
        assert_products_near(result, expected)
