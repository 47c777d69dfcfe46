"""``quant`` on the GPU against eager PyTorch, spelled as models spell it."""

import pytest
import torch
from numerics import fp8_steps, rows_with_special_values

from helion_compile.kernels import quant

# Each hidden size and dtype is a compilation of seconds; rows are free.
SHAPES = {
    torch.bfloat16: [(1, 4096), (257, 4096), (64, 12288)],
    torch.float16: [(257, 4000)],
    torch.float32: [(13, 257), (2048, 64)],
}


def torchao(x):
    scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
    return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


def vllm(x):
    scale = (x.abs().amax(-1, keepdim=True).float() / 448.0).clamp_min(1 / (448.0 * 512.0))
    return (x.float() * scale.reciprocal()).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


def plain(x):
    amax = x.abs().max(dim=-1, keepdim=True).values.float().clamp_min(1e-12)
    scale = amax / 448.0
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


SPELLINGS = {
    "torchao": (torchao, lambda dtype: (dtype, "divide", True, None, None)),
    "vllm": (vllm, lambda dtype: (torch.float32, "reciprocal", True, None, 1 / (448.0 * 512.0))),
    "plain": (plain, lambda dtype: (torch.float32, "divide", False, 1e-12, None)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("dtype", "shape"), [(d, s) for d, shapes in SHAPES.items() for s in shapes], ids=str)
def test_exact_is_eager_bit_for_bit(spelling, dtype, shape):
    eager, attributes = SPELLINGS[spelling]
    x = (torch.randn(shape, device="cuda") * torch.rand(shape[0], 1, device="cuda").exp2()).to(dtype)
    q, scale = quant(x, *attributes(dtype), True)
    expected_q, expected_scale = eager(x)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(q.view(torch.uint8), expected_q.view(torch.uint8))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("dtype", "k"), [(torch.bfloat16, 4000), (torch.float32, 64)], ids=str)
def test_special_rows(spelling, dtype, k, exact):
    eager, attributes = SPELLINGS[spelling]
    x = rows_with_special_values(k, dtype, "cuda")
    q, scale = quant(x, *attributes(dtype), exact)
    expected_q, expected_scale = eager(x)
    # One step in default numerics, from the scale that keeps its fp32 value.
    assert fp8_steps(q, expected_q).max() <= (0 if exact else 1)
    # A scale rounded to bf16 is up to 2^-8 from the unrounded one.
    torch.testing.assert_close(scale, expected_scale, rtol=0 if exact else 2**-8, atol=0, equal_nan=True)


@pytest.mark.parametrize("exact", [True, False])
def test_division_where_fp32_is_dense_and_where_it_ends(exact):
    # Rows over the whole range of exponents: scales down to subnormal ones, quotients next to every fp8 tie.
    exponents = torch.arange(-149, 128, device="cuda", dtype=torch.float64).repeat_interleave(8)
    x = (torch.rand(len(exponents), 512, device="cuda", dtype=torch.float64) * 2 - 1) * exponents.exp2()[:, None]
    x = x.float()
    q, scale = quant(x, *SPELLINGS["torchao"][1](x.dtype), exact)
    expected_q, expected_scale = torchao(x)
    assert torch.equal(scale, expected_scale)
    assert fp8_steps(q, expected_q).max() <= (0 if exact else 1)


def test_no_rows():
    q, scale = quant(
        torch.empty(0, 4096, device="cuda", dtype=torch.bfloat16), torch.float32, "divide", True, None, None, True
    )
    assert q.shape == (0, 4096) and q.dtype == torch.float8_e4m3fn
    assert scale.shape == (0, 1)


def test_more_rows_than_a_16_bit_grid():
    x = torch.randn(131072, 64, device="cuda", dtype=torch.bfloat16)
    q, scale = quant(x, *SPELLINGS["torchao"][1](x.dtype), True)
    expected_q, expected_scale = torchao(x)
    assert torch.equal(scale, expected_scale) and torch.equal(q.view(torch.uint8), expected_q.view(torch.uint8))


def test_offsets_beyond_32_bits():
    x = torch.randn(131072, 16640, device="cuda", dtype=torch.bfloat16)  # 2.18e9 elements
    q, _ = quant(x, *SPELLINGS["torchao"][1](x.dtype), True)
    last = slice(-3, None)
    assert torch.equal(q[last].view(torch.uint8), torchao(x[last])[0].view(torch.uint8))


def test_rows_of_a_wider_tensor():
    wide = torch.randn(33, 4100, device="cuda", dtype=torch.bfloat16)
    x = wide[:, 3:4099]  # strided, and not 16-byte aligned
    q, scale = quant(x, *SPELLINGS["vllm"][1](x.dtype), True)
    expected_q, expected_scale = vllm(x)
    assert torch.equal(scale, expected_scale) and torch.equal(q.view(torch.uint8), expected_q.view(torch.uint8))
