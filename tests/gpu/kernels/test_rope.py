# SPDX-License-Identifier: Apache-2.0
"""``rope`` and ``norm_rope`` on the GPU against eager PyTorch, fp64 and Inductor.

Letters: B sequences, S tokens, H heads, D elements of a head, R of them rotated.
"""

import pytest
import torch

from helion_compile import report
from helion_compile.kernels import norm_rope, rope
from tests.support.numerics import relative_error

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
DTYPES = [BF16, FP16, FP32]
EPS = 1e-6
# B, S, H, D, R: Qwen3, one token, Qwen3 14B, a part of a head (GPT-NeoX), Gemma 3
SHAPES = [(2, 257, 32, 128, 128), (1, 1, 8, 128, 128), (1, 33, 40, 128, 128), (2, 65, 16, 96, 24), (1, 64, 4, 256, 256)]


def rotate_half(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return x * cos + torch.cat((-x2, x1), -1) * sin


def rotate_pairs(x, cos, sin):
    x1, x2 = x[..., ::2], x[..., 1::2]
    return x * cos + torch.stack((-x2, x1), -1).flatten(-2) * sin


def strided_writes(x, cos, sin):
    x1, x2 = x[..., ::2], x[..., 1::2]
    out = torch.empty_like(x)
    out[..., ::2] = x1 * cos[..., ::2] - x2 * sin[..., ::2]
    out[..., 1::2] = x2 * cos[..., 1::2] + x1 * sin[..., 1::2]
    return out


def chunked(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    (cos1, cos2), (sin1, sin2) = cos.chunk(2, -1), sin.chunk(2, -1)
    return torch.cat((x1 * cos1 - x2 * sin1, x2 * cos2 + x1 * sin2), -1)


FORMS = {rotate_half: "neox", chunked: "neox", rotate_pairs: "interleaved", strided_writes: "interleaved"}


def written(form, x, cos, sin):
    """``form`` of the first elements of ``x`` [B, S, H, D], as many as ``cos`` [B, S, R] has."""
    rotary_dim = cos.size(-1)
    out = form(x[..., :rotary_dim], cos.unsqueeze(2), sin.unsqueeze(2))
    return torch.cat((out, x[..., rotary_dim:].to(out.dtype)), -1)


def inputs(shape, dtype, table_dtype=None):
    b, s, h, d, rotary_dim = shape
    torch.manual_seed(0)
    x = torch.randn(b, s, h, d, device="cuda").to(dtype)
    cos, sin = (torch.randn(b, s, rotary_dim, device="cuda").to(table_dtype or dtype) for _ in range(2))
    return x, cos, sin


def tables(cos, sin, pairs):
    if pairs == "interleaved":
        return cos[..., ::2], sin[..., ::2], cos[..., 1::2], sin[..., 1::2]
    half = cos.size(-1) // 2
    return cos[..., :half], sin[..., :half], cos[..., half:], sin[..., half:]


def call(form, x, cos, sin, *, exact, heads_first=False):
    pairs = FORMS[form]
    stepwise = cos.dtype == x.dtype != FP32
    return rope(x, *tables(cos, sin, pairs), pairs, stepwise, heads_first, exact)


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_exact_is_eager_bit_for_bit(form, dtype, shape, heads_first):
    x, cos, sin = inputs(shape, dtype)
    result = call(form, x, cos, sin, exact=True, heads_first=heads_first)
    assert result.is_contiguous()
    assert torch.equal(result.transpose(1, 2) if heads_first else result, written(form, x, cos, sin))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_exact_with_tables_in_fp32(form):
    x, cos, sin = inputs(SHAPES[0], BF16, FP32)
    assert torch.equal(call(form, x, cos, sin, exact=True), written(form, x.float(), cos, sin).to(BF16))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_heads_that_lie_before_tokens(form):
    x, cos, sin = inputs(SHAPES[0], BF16)
    x = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(call(form, x, cos, sin, exact=True), written(form, x, cos, sin))


def test_heads_that_are_a_part_of_a_matmul():
    both = torch.randn(2, 65, 3, 8, 128, device="cuda").to(BF16)
    _, cos, sin = inputs((2, 65, 8, 128, 128), BF16)
    x = both[:, :, 1]
    assert torch.equal(call(rotate_half, x, cos, sin, exact=True), written(rotate_half, x, cos, sin))


def test_a_table_that_sequences_share():
    x, cos, sin = inputs((4, 65, 8, 128, 128), BF16)
    cos, sin = cos[:1].expand(4, -1, -1), sin[:1].expand(4, -1, -1)
    assert torch.equal(call(rotate_half, x, cos, sin, exact=True), written(rotate_half, x, cos, sin))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_default_is_as_near_to_fp64_as_inductor(form, dtype):
    x, cos, sin = inputs(SHAPES[0], dtype)
    inductor = torch.compile(lambda *args: written(form, *args), backend="inductor", dynamic=False)
    truth = written(form, x.double(), cos.double(), sin.double())
    ours, theirs = relative_error(call(form, x, cos, sin, exact=False), truth), relative_error(inductor(x, cos, sin), truth)
    assert ours <= theirs * 1.01  # last bits of fp32


def llama(x, weight, offset, factor):
    return (weight + offset if offset else weight) * (x.float() * factor).to(x.dtype)


def gemma(x, weight, offset, factor):
    return (x.float() * factor * (offset + weight.float())).to(x.dtype)


def factor_of(x, over_heads=False):
    x32 = x.float().flatten(2) if over_heads else x.float()
    factor = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)
    return factor.unsqueeze(-1) if over_heads else factor


def neighbours(x, steps):
    return [(x.view(torch.int32) + step).view(FP32) for step in range(-steps, steps + 1)]


@pytest.mark.parametrize("over_heads", [False, True])
@pytest.mark.parametrize(("norm", "offset"), [(llama, 0.0), (gemma, 0.0), (gemma, 1.0)])
@pytest.mark.parametrize("form", [rotate_half, rotate_pairs], ids=lambda form: form.__name__)
@pytest.mark.parametrize(("dtype", "rotated"), [(BF16, 128), (FP16, 128), (BF16, 64)], ids=str)
def test_exact_norm_rope_is_eager_but_for_the_order_of_summation(dtype, rotated, form, norm, offset, over_heads):
    x, cos, sin = inputs((2, 65, 32, 128, rotated), dtype)
    weight = (1 + 0.1 * torch.randn(32 * 128 if over_heads else 128, device="cuda")).to(dtype)
    pairs = FORMS[form]
    arguments = *tables(cos, sin, pairs), EPS, offset, norm is llama, over_heads, pairs, True, False, True
    result = norm_rope(x, weight, *arguments)
    shaped = weight.view(32, 128) if over_heads else weight
    # For one of the means that are near to eager's, every later bit of the head has to be eager's.
    explained = torch.zeros(2, 65, 32, dtype=torch.bool, device="cuda")
    for factor in neighbours(factor_of(x, over_heads), 6):
        explained |= (result == written(form, norm(x, shaped, offset, factor), cos, sin)).all(-1)
    assert explained.all()


@pytest.mark.parametrize("rotated", [128, 32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_default_norm_rope_is_as_near_to_fp64_as_inductor(dtype, rotated):
    x, cos, sin = inputs((*SHAPES[0][:3], 128, rotated), dtype)
    weight = (1 + 0.1 * torch.randn(128, device="cuda")).to(dtype)

    @torch.compile(backend="inductor", dynamic=False)
    def inductor(x, weight, cos, sin):
        return written(rotate_half, llama(x, weight, 0, factor_of(x)), cos, sin)

    result = norm_rope(x, weight, *tables(cos, sin, "neox"), EPS, 0.0, True, False, "neox", dtype != FP32, False, False)
    x64 = x.double()
    x64 = weight.double() * x64 * torch.rsqrt(x64.pow(2).mean(-1, keepdim=True) + EPS)
    truth = written(rotate_half, x64, cos.double(), sin.double())
    ours, theirs = relative_error(result, truth), relative_error(inductor(x, weight, cos, sin), truth)
    assert ours <= theirs * 1.05  # in fp32 the order of summation; below, last bits of it


@pytest.mark.parametrize("s", [0, 1, 13, 257])
def test_any_number_of_tokens(s):
    x, cos, sin = inputs((2, s, 8, 128, 128), BF16)
    result = call(rotate_half, x, cos, sin, exact=True, heads_first=True)
    assert result.shape == (2, 8, s, 128)
    assert torch.equal(result.transpose(1, 2), written(rotate_half, x, cos, sin))


def test_complex_products_through_the_backend():
    def llama4(x, freqs):
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * freqs[:, :, None]).flatten(3).type_as(x)

    x = torch.randn(2, 65, 8, 128, device="cuda").to(BF16)
    freqs = torch.polar(torch.ones(2, 65, 64, device="cuda"), torch.randn(2, 65, 64, device="cuda"))
    with torch.no_grad():
        result = torch.compile(llama4, backend="helion", fullgraph=True)(x, freqs)
    torch.testing.assert_close(result, llama4(x, freqs), rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("angles", [torch.complex64, torch.complex128], ids=str)
def test_complex_products_behind_a_norm_through_the_backend(angles):
    def qwen_image(x, weight, freqs):
        pairs = torch.view_as_complex(llama(x, weight, 0, factor_of(x)).float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * freqs[:, :, None]).flatten(3).type_as(x)

    x, weight = torch.randn(1, 257, 24, 128, device="cuda").to(BF16), (1 + 0.1 * torch.randn(128, device="cuda")).to(BF16)
    freqs = torch.polar(torch.ones(1, 257, 64, device="cuda"), torch.randn(1, 257, 64, device="cuda")).to(angles)
    compiled = torch.compile(qwen_image, backend="helion", fullgraph=True, dynamic=False)
    with torch.no_grad():
        result = compiled(x, weight, freqs)
    assert [fused.site.fusion for fused in report(compiled).sites] == ["norm_rope"]
    x64 = x.double()
    x64 = weight.double() * x64 * torch.rsqrt(x64.pow(2).mean(-1, keepdim=True) + EPS)
    pairs = torch.view_as_complex(x64.unflatten(-1, (-1, 2)))
    truth = torch.view_as_real(pairs * freqs[:, :, None].to(torch.complex128)).flatten(3)
    assert relative_error(result, truth) <= relative_error(qwen_image(x, weight, freqs), truth)
