# SPDX-License-Identifier: Apache-2.0
"""``quant`` on the GPU against eager PyTorch, written as models write it."""

import pytest
import torch

from helion_compile.errors import KernelArgumentError
from helion_compile.kernels import quant
from tests.support.corpus.kernel_quantisers import QUANTISERS
from tests.support.numerics import fp8_steps, quantised_steps, rows_with_special_values

# Each hidden size, dtype and quantiser is a compilation of seconds; rows are free.
SHAPES = {
    torch.bfloat16: [(1, 4096), (257, 4096), (64, 12288), (65, 5120)],
    torch.float16: [(257, 4096)],
    torch.float32: [(13, 256), (2048, 128)],
}
TORCHAO = QUANTISERS["torchao"]


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def bits(tensor):
    """Equal for tensors that are equal bit for bit, but that any NaN equals any other."""
    same = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
    return torch.where(tensor.float().isnan(), -1, tensor.view(same).long())


def assert_bit_equal(results, expected):
    for result, value in zip(results, expected, strict=True):
        assert (result.dtype, result.shape, result.stride()) == (value.dtype, value.shape, value.stride())
        assert torch.equal(bits(result), bits(value))


def both(name, x, exact):
    """The kernel's results and eager's."""
    quantiser = QUANTISERS[name]
    number = quantiser.number("cuda")
    results = as_tuple(quant(x, *quantiser.arguments(x.dtype, number), exact))
    return results, quantiser.results(x, number)


def steps(results, expected):
    """How far the values are apart; with zero points, which move with them, the values less these."""
    if len(results) == 3:
        a, b = (q.short() - zero for q, _, zero in (results, expected))
        return (a - b).abs()
    return quantised_steps(results[0], expected[0])


@pytest.mark.parametrize("name", QUANTISERS)
@pytest.mark.parametrize(("dtype", "shape"), [(d, s) for d, shapes in SHAPES.items() for s in shapes], ids=str)
def test_exact_is_eager_bit_for_bit(name, dtype, shape):
    x = (torch.randn(shape, device="cuda") * torch.rand(shape[0], 1, device="cuda").exp2()).to(dtype)
    assert_bit_equal(*both(name, x, True))


@pytest.mark.parametrize("name", QUANTISERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_default_is_one_step_from_eager(name, dtype):
    x = torch.randn(257, 4096, device="cuda").to(dtype)
    results, expected = both(name, x, False)
    assert steps(results, expected).max() <= 1
    for scale, value in zip(results[1:2], expected[1:2], strict=True):
        torch.testing.assert_close(scale, value, rtol=2**-8, atol=0)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", QUANTISERS)
@pytest.mark.parametrize(("dtype", "k"), [(torch.bfloat16, 3968), (torch.float32, 128)], ids=str)
def test_special_rows(name, dtype, k, exact):
    x = rows_with_special_values(k, dtype, "cuda")
    results, expected = both(name, x, exact)
    # One step in default numerics, from the scale that keeps its fp32 value.
    assert steps(results, expected).max() <= (0 if exact else 1)
    # A scale rounded to bf16 is up to 2^-8 from the unrounded one.
    for result, value in zip(results[1:2], expected[1:2], strict=True):
        torch.testing.assert_close(result, value, rtol=0 if exact else 2**-8, atol=0, equal_nan=True)


@pytest.mark.parametrize("exact", [True, False])
def test_division_where_fp32_is_dense_and_where_it_ends(exact):
    # Rows over the whole range of exponents: scales down to subnormal ones, quotients next to every fp8 tie.
    exponents = torch.arange(-149, 128, device="cuda", dtype=torch.float64).repeat_interleave(8)
    x = (torch.rand(len(exponents), 512, device="cuda", dtype=torch.float64) * 2 - 1) * exponents.exp2()[:, None]
    (q, scale), (expected_q, expected_scale) = both("torchao", x.float(), exact)
    assert torch.equal(scale, expected_scale)
    assert fp8_steps(q, expected_q).max() <= (0 if exact else 1)


def test_every_scale_that_becomes_a_power_of_two():
    # Next to powers of two, log2 decides which one it is; eager's rounds as the kernel's does.
    name = "groups of 128, TMA-aligned, ue8m0"
    powers = torch.arange(-12, 100, device="cuda", dtype=torch.float32).exp2() * 448.0
    amax = torch.cat([(powers.view(torch.int32) + step).view(torch.float32) for step in range(-3, 4)])
    x = torch.rand(len(amax), 256, device="cuda") * amax[:, None]
    x[:, ::128] = amax[:, None]
    assert_bit_equal(*both(name, x, True))


@pytest.mark.parametrize("name", ["torchao", "static", "int8 asymmetric", "groups of 128, TMA-aligned, ue8m0"])
def test_no_rows(name):
    x = torch.empty(0, 4096, device="cuda", dtype=torch.bfloat16)
    results = as_tuple(quant(x, *QUANTISERS[name].arguments(x.dtype, QUANTISERS[name].number("cuda")), True))
    assert results[0].shape == (0, 4096)
    assert [len(result) for result in results] == [0] * len(results)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", ["torchao", "groups of 64, column-major"])
def test_more_rows_than_a_16_bit_grid(name, exact):
    x = torch.randn(131072, 64, device="cuda", dtype=torch.bfloat16)
    results, expected = both(name, x, exact)
    if exact:
        assert_bit_equal(results, expected)
    assert quantised_steps(results[0], expected[0]).max() <= 1
    torch.testing.assert_close(results[1], expected[1], rtol=2**-8, atol=0)


def test_offsets_beyond_32_bits():
    x = torch.randn(131072, 16640, device="cuda", dtype=torch.bfloat16)  # 2.18e9 elements
    for name in ("torchao", "groups of 128"):
        arguments = QUANTISERS[name].arguments(x.dtype, None)
        q, scale = quant(x, *arguments, True)
        last = slice(-3, None)
        assert_bit_equal((q[last], scale[last]), QUANTISERS[name].results(x[last], None))
        del q


@pytest.mark.parametrize("name", ["vllm", "static int8", "groups of 128"])
def test_rows_of_a_wider_tensor(name):
    wide = torch.randn(33, 4100, device="cuda", dtype=torch.bfloat16)
    x = wide[:, 3:4099]  # strided, and not 16-byte aligned
    results, _ = both(name, x, True)
    assert_bit_equal(results, QUANTISERS[name].results(x.contiguous(), QUANTISERS[name].number("cuda")))


def test_a_slice_beyond_32_bit_offsets_is_refused():
    x = torch.empty(65536, 57344, device="cuda", dtype=torch.bfloat16)[:, :64]
    with pytest.raises(KernelArgumentError, match="reaches 3758039104 elements into memory"):
        quant(x, *TORCHAO.arguments(x.dtype, None), True)
