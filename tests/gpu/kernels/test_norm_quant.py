"""``rms_norm_quant`` on the GPU against eager PyTorch, fp64 and Inductor."""

import pytest
import torch
from numerics import fp8_steps, relative_error, rows_with_special_values

from helion_compile.kernels import rms_norm_quant

EPS = 1e-6
# Each hidden size and dtype is a compilation of seconds; rows are free.
SHAPES = [
    (torch.bfloat16, (1, 4096)),
    (torch.bfloat16, (257, 4096)),
    (torch.bfloat16, (64, 12288)),
    (torch.float16, (257, 4000)),
    (torch.float32, (13, 257)),
]


def torchao(norm):
    scale = (norm.abs().amax(-1, keepdim=True) / 448.0).float()
    return (norm.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


def llama(x, weight, rstd=None):
    x32 = x.float()
    rstd = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS) if rstd is None else rstd
    return weight * (x32 * rstd).to(x.dtype)


def nn_rms_norm(x, weight, rstd=None):
    x32 = x.float()
    rstd = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS) if rstd is None else rstd
    return (x32 * rstd * weight).to(x.dtype)


NORMS = {"llama": llama, "nn.RMSNorm": nn_rms_norm}


def arguments(x, weight, residual, norm, *, exact, keep_norm=False):
    return x, weight, residual, EPS, norm == "llama", x.dtype, "divide", True, None, None, exact, keep_norm


def inputs(shape, dtype, residual=True):
    x = torch.randn(shape, device="cuda").to(dtype)
    weight = (1 + 0.1 * torch.randn(shape[1], device="cuda")).to(dtype)
    return x, weight, torch.randn(shape, device="cuda").to(dtype) if residual else None


def neighbours(x: torch.Tensor, steps: int):
    """x and the fp32 values up to ``steps`` above and below it."""
    return [(x.view(torch.int32) + step).view(torch.float32) for step in range(-steps, steps + 1)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("dtype", "shape"), SHAPES, ids=str)
@pytest.mark.parametrize("residual", [False, True])
def test_exact_is_eager_but_for_the_order_of_summation(norm, dtype, shape, residual):
    x, weight, r = inputs(shape, dtype, residual)
    q, scale, *rest = rms_norm_quant(*arguments(x, weight, r, norm, exact=True, keep_norm=True))
    total = x if r is None else x + r
    if r is not None:
        assert torch.equal(rest[0], total)
    # The kernel's own row mean is not among its results, but it is eager's up to the order of summation: a few steps of
    # fp32.  For one of those steps every later bit of the row has to be eager's.
    x32 = total.float()
    rstd = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)
    explained = torch.zeros(shape[0], dtype=torch.bool, device="cuda")
    for candidate in neighbours(rstd, 6):
        expected = NORMS[norm](total, weight, candidate)
        expected_q, expected_scale = torchao(expected)
        explained |= (
            (rest[-1] == expected).all(-1)
            & (q.view(torch.uint8) == expected_q.view(torch.uint8)).all(-1)
            & (scale == expected_scale).squeeze(-1)
        )
    assert explained.all()


@pytest.mark.parametrize("norm", NORMS)
def test_exact_differs_from_plain_eager_in_one_byte_of_a_thousand(norm):
    x, weight, r = inputs((2048, 4096), torch.bfloat16)
    q, _, total = rms_norm_quant(*arguments(x, weight, r, norm, exact=True))
    expected, _ = torchao(NORMS[norm](x + r, weight))
    steps = fp8_steps(q, expected)
    assert steps.max() <= 1
    assert (steps > 0).float().mean() <= 1e-3
    assert torch.equal(total, x + r)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("dtype", "shape"), [s for s in SHAPES if s[1][0] > 1], ids=str)
def test_default_is_as_near_to_fp64_as_inductor_and_one_step_from_it(norm, dtype, shape):
    x, weight, r = inputs(shape, dtype)

    @torch.compile(backend="inductor", dynamic=False)
    def inductor(x, weight, r):
        total = x + r
        return *torchao(NORMS[norm](total, weight)), total

    q, scale, total = rms_norm_quant(*arguments(x, weight, r, norm, exact=False))
    their_q, their_scale, their_total = inductor(x, weight, r)
    assert torch.equal(total, their_total)
    assert fp8_steps(q, their_q).max() <= 1
    x64 = x.double() + r.double()
    truth = x64 * torch.rsqrt(x64.pow(2).mean(-1, keepdim=True) + EPS) * weight.double()
    ours, theirs = (relative_error(a.double() * b, truth) for a, b in ((q, scale), (their_q, their_scale)))
    # Both make the same roundings but for fp32's last bits, which move single bytes up or down at random: of the error
    # that fp8 rounding itself makes, 1e-3 is more than such bytes can add.
    assert ours <= theirs * 1.001


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("dtype", "k"), [(torch.bfloat16, 4000), (torch.float32, 64)], ids=str)
def test_special_rows(dtype, k, exact):
    x = rows_with_special_values(k, dtype, "cuda")
    weight = (1 + 0.1 * torch.randn(k, device="cuda")).to(dtype)
    q, scale = rms_norm_quant(*arguments(x, weight, None, "llama", exact=exact))
    expected_q, expected_scale = torchao(llama(x, weight))
    assert fp8_steps(q, expected_q).max() <= 1
    torch.testing.assert_close(scale, expected_scale, rtol=2**-7, atol=0, equal_nan=True)


@pytest.mark.parametrize("m", [0, 1, 13, 257])
def test_any_number_of_rows(m):
    x, weight, r = inputs((m, 4096), torch.bfloat16)
    results = rms_norm_quant(*arguments(x, weight, r, "llama", exact=True, keep_norm=True))
    assert [tuple(t.shape) for t in results] == [(m, 4096), (m, 1), (m, 4096), (m, 4096)]
    assert torch.equal(results[2], x + r)


def test_many_rows():
    x, weight, r = inputs((131072, 128), torch.bfloat16)
    q, scale, total = rms_norm_quant(*arguments(x, weight, r, "llama", exact=True))
    assert torch.equal(total, x + r)
    assert fp8_steps(q, torchao(llama(x + r, weight))[0]).max() <= 1


def test_one_tensor_as_two_arguments_and_then_two_tensors():
    x, weight, r = inputs((64, 4096), torch.bfloat16)
    for residual in (x, r):
        _, _, total = rms_norm_quant(*arguments(x, weight, residual, "llama", exact=True))
        assert torch.equal(total, x + residual)


def test_no_weight():
    x, _, _ = inputs((64, 4096), torch.bfloat16)
    q, _ = rms_norm_quant(*arguments(x, None, None, "nn.RMSNorm", exact=True))
    expected, _ = torchao(nn_rms_norm(x, 1.0))
    assert fp8_steps(q, expected).max() <= 1
