# SPDX-License-Identifier: Apache-2.0
"""``activation_quant`` on the GPU against eager PyTorch, fp64 and Inductor."""

import pytest
import torch
import torch.nn.functional as F

from helion_compile.errors import KernelArgumentError
from helion_compile.kernels import activation_quant
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs
from tests.support.corpus.quantisers import torchao_row
from tests.support.numerics import fp8_steps, relative_error, rows_with_special_values

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# Each hidden size and dtype is a compilation of seconds; rows are free.
SHAPES = [(BF16, (257, 12288)), (FP16, (257, 4000)), (FP32, (13, 1000)), (BF16, (33, 28672))]


def silu_by_sigmoid(x):
    return (x.float() * torch.sigmoid(x.float())).to(x.dtype)


def silu_by_sigmoid_step_by_step(x):
    return x * torch.sigmoid(x)


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def relu_squared(x):
    return F.relu(x).square()


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


# written in torch -> function and rounding of the kernel
FUNCTIONS = {
    F.silu: ("silu", "function"),
    silu_by_sigmoid: ("silu_sigmoid", "function"),
    silu_by_sigmoid_step_by_step: ("silu_sigmoid", "every_step"),
    F.gelu: ("gelu", "function"),
    gelu_tanh: ("gelu_tanh", "function"),
    relu_squared: ("relu_squared", "function"),
    F.relu: ("relu", "result"),
    quick_gelu: ("quick_gelu", "every_step"),
}


def arguments(x, up, function, *, exact, keep=False):
    quantizer = QuantizeAttrs(torch.float8_e4m3fn, clamp=(-448.0, 448.0), scale_dtype=x.dtype).text
    return x, up, None, None, *FUNCTIONS[function], quantizer, exact, keep


def halves(shape, dtype):
    """Two halves of one tensor, as a matmul for gate and up leaves them."""
    m, k = shape
    return (3 * torch.randn(m, 2 * k, device="cuda")).to(dtype).chunk(2, -1)


EXACT = [function for function, (name, _) in FUNCTIONS.items() if not name.startswith("gelu")]


@pytest.mark.parametrize("function", [F.gelu, gelu_tanh], ids=lambda f: f.__name__)
def test_gelu_is_not_eagers_to_the_bit_and_so_refused(function):
    x, up = halves((13, 4096), BF16)
    with pytest.raises(KernelArgumentError, match="differs in last bits; use numerics='default'"):
        activation_quant(*arguments(x, up, function, exact=True))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("dtype", "shape"), SHAPES, ids=str)
@pytest.mark.parametrize("function", EXACT, ids=lambda function: function.__name__)
def test_exact_is_eager_bit_for_bit(function, dtype, shape, gated):
    x, up = halves(shape, dtype)
    q, scale, out = activation_quant(*arguments(x, up if gated else None, function, exact=True, keep=True))
    expected = function(x) * up if gated else function(x)
    assert torch.equal(out, expected), f"{(out != expected).sum()} of {out.numel()} differ"
    expected_q, expected_scale = torchao_row(expected)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(q.view(torch.uint8), expected_q.view(torch.uint8))


@pytest.mark.parametrize("function", [F.silu, silu_by_sigmoid_step_by_step], ids=lambda f: f.__name__)
def test_exact_for_every_bf16(function):
    """All 65 536 values, NaN and the infinities among them."""
    every = torch.arange(-(2**15), 2**15, device="cuda").to(torch.int16).view(BF16).reshape(16, 4096)
    _, _, out = activation_quant(*arguments(every, None, function, exact=True, keep=True))
    expected = function(every)
    same = (out.view(torch.int16) == expected.view(torch.int16)) | (out.isnan() & expected.isnan())
    assert same.all(), every[~same]


@pytest.mark.parametrize(("dtype", "shape"), SHAPES, ids=str)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_default_is_as_near_to_fp64_as_inductor_and_one_step_from_it(function, dtype, shape):
    x, up = halves(shape, dtype)

    @torch.compile(backend="inductor", dynamic=False)
    def inductor(x, up):
        return torchao_row(function(x) * up)

    q, scale = activation_quant(*arguments(x, up, function, exact=False))
    their_q, their_scale = inductor(x, up)
    assert fp8_steps(q, their_q).max() <= 1
    truth = function(x.double()) * up.double() if function not in (silu_by_sigmoid,) else F.silu(x.double()) * up.double()
    ours, theirs = (relative_error(a.double() * b, truth) for a, b in ((q, scale), (their_q, their_scale)))
    assert ours <= theirs * 1.001  # as for norm_quant: last bits of fp32 move single bytes up or down at random


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("dtype", "k"), [(BF16, 4000), (FP32, 64)], ids=str)
def test_special_rows(dtype, k, exact):
    x = rows_with_special_values(k, dtype, "cuda")
    up = torch.randn_like(x)
    q, scale = activation_quant(*arguments(x, up, F.silu, exact=exact))
    expected_q, expected_scale = torchao_row(F.silu(x) * up)
    assert fp8_steps(q, expected_q).max() <= (0 if exact else 1)
    torch.testing.assert_close(scale, expected_scale, rtol=2**-7, atol=0, equal_nan=True)


@pytest.mark.parametrize("m", [0, 1, 13, 257])
def test_any_number_of_rows(m):
    x, up = halves((m, 4096), BF16)
    results = activation_quant(*arguments(x, up, F.silu, exact=True, keep=True))
    assert [tuple(t.shape) for t in results] == [(m, 4096), (m, 1), (m, 4096)]
    assert torch.equal(results[2], F.silu(x) * up)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_clamped_swiglu(exact, interleaved):
    """gpt-oss' activation, of halves that lie one behind the other or element by element."""
    both = 4 * torch.randn(257, 2 * 2880, device="cuda", dtype=BF16)
    x, up = (both[:, ::2], both[:, 1::2]) if interleaved else both.chunk(2, -1)
    quantizer = QuantizeAttrs(torch.float8_e4m3fn, clamp=(-448.0, 448.0), scale_dtype=BF16).text
    call = x, up, None, None, "quick_gelu limit=7 up_offset=1", "every_step", quantizer, exact, True
    q, scale, out = activation_quant(*call)

    def written(gate, up):
        gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
        return (up + 1) * (gate * torch.sigmoid(gate * 1.702))

    if exact:
        assert torch.equal(out, written(x, up))
    truth = written(x.double(), up.double())
    theirs = torch.compile(lambda x, up: torchao_row(written(x, up)), dynamic=False)(x, up)
    ours, others = (relative_error(a.double() * b, truth) for a, b in ((q, scale), theirs))
    assert exact or ours <= others * 1.001
    assert relative_error(out, truth) <= 2**-7
