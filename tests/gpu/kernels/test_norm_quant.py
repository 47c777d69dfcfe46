# SPDX-License-Identifier: Apache-2.0
"""``norm_quant`` on the GPU against eager PyTorch, fp64 and Inductor."""

import pytest
import torch

from helion_compile.errors import KernelArgumentError
from helion_compile.kernels import norm_quant
from tests.support.corpus.kernel_norms import EPS, NORMS, UNROUNDED
from tests.support.corpus.kernel_quantisers import QUANTISERS
from tests.support.numerics import fp8_steps, quantised_steps, relative_error, rows_with_special_values

ALL = {**NORMS, "vLLM's unrounded sum": UNROUNDED}
# Each hidden size, dtype, norm and quantiser is a compilation of seconds; rows are free.
SHAPES = [
    (torch.bfloat16, (1, 4096)),
    (torch.bfloat16, (257, 4096)),
    (torch.bfloat16, (64, 12288)),
    (torch.float16, (257, 4000)),
    (torch.float32, (13, 257)),
]
LLAMA = NORMS["llama"]


def inputs(shape, dtype, residual=True):
    torch.manual_seed(0)
    x = torch.randn(shape, device="cuda").to(dtype)
    return x, torch.randn(shape, device="cuda").to(dtype) if residual else None


def call(norm, quantiser, x, residual, *, exact, keep_norm=False):
    """The kernel's results."""
    scale, scale_ub, text = QUANTISERS[quantiser].arguments(x.dtype, QUANTISERS[quantiser].number("cuda"))
    weight, bias = norm.parameters(x.size(1), x.dtype, "cuda")
    arguments = x, weight, bias, residual, scale, scale_ub, EPS, norm.text(x.dtype), text, exact, keep_norm
    results = norm_quant(*arguments)
    return results if isinstance(results, tuple) else (results,)


def eager(norm, quantiser, x, residual, factor=None):
    """What the model gives, of its own row mean or of one that is near to it: quantised, the sum if there is one, the norm."""
    weight, bias = norm.parameters(x.size(1), x.dtype, "cuda")
    return written(norm, quantiser, x, residual, weight, bias, QUANTISERS[quantiser].number("cuda"), factor)


def written(norm, quantiser, x, residual, weight, bias, number, factor=None):
    read, total = (x, None) if residual is None else norm.add(x, residual)
    out = norm.written(read, weight, bias, norm.factor_of(read) if factor is None else factor)
    return [*QUANTISERS[quantiser].results(out, number), *([] if total is None else [total]), out]


def factor_of(norm, x, residual):
    return norm.factor_of(x if residual is None else norm.add(x, residual)[0])


def neighbours(x: torch.Tensor, steps: int):
    """x and the fp32 values up to ``steps`` above and below it."""
    return [(x.view(torch.int32) + step).view(torch.float32) for step in range(-steps, steps + 1)]


def same_rows(result, expected):
    """For each row whether it is equal bit for bit."""
    same = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[result.element_size()]
    rows = (result.contiguous().view(same) == expected.contiguous().view(same)).view(len(result), -1)
    return rows.all(-1)


def assert_eager_but_for_the_order_of_summation(norm, quantiser, x, residual):
    results = call(norm, quantiser, x, residual, exact=True, keep_norm=True)
    # The kernel's own row mean is not among its results, but it is eager's up to the order of summation: a few steps of
    # fp32.  For one of those steps every later bit of the row has to be eager's.
    explained = torch.zeros(len(x), dtype=torch.bool, device="cuda")
    for factor in neighbours(factor_of(norm, x, residual), 6):
        expected = eager(norm, quantiser, x, residual, factor)
        assert len(results) == len(expected)
        equal = torch.ones_like(explained)
        for result, value in zip(results, expected, strict=True):
            assert (result.dtype, result.shape, result.stride()) == (value.dtype, value.shape, value.stride())
            equal &= same_rows(result, value)
        explained |= equal
    assert explained.all()


@pytest.mark.parametrize("norm", ["llama", "nn.RMSNorm"])
@pytest.mark.parametrize(("dtype", "shape"), SHAPES, ids=str)
@pytest.mark.parametrize("residual", [False, True])
def test_exact_is_eager_but_for_the_order_of_summation(norm, dtype, shape, residual):
    assert_eager_but_for_the_order_of_summation(NORMS[norm], "torchao", *inputs(shape, dtype, residual))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", [name for name in ALL if not name.startswith("layer")])
def test_exact_with_every_rms_norm(norm, residual):
    assert_eager_but_for_the_order_of_summation(ALL[norm], "vllm", *inputs((257, 4096), torch.bfloat16, residual))


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_exact_with_every_quantiser(quantiser):
    assert_eager_but_for_the_order_of_summation(LLAMA, quantiser, *inputs((257, 5120), torch.bfloat16))


@pytest.mark.parametrize("norm", ["llama", "nn.RMSNorm", "layer", "layer, cast then scale"])
def test_exact_differs_from_plain_eager_in_one_byte_of_a_thousand(norm):
    # A layer norm has two means whose order of summation shows.
    x, r = inputs((2048, 4096), torch.bfloat16)
    q, _, total = call(NORMS[norm], "torchao", x, r, exact=True)
    expected, _, expected_total, _ = eager(NORMS[norm], "torchao", x, r)
    steps = fp8_steps(q, expected)
    assert steps.max() <= 1
    assert (steps > 0).float().mean() <= 1e-3
    assert torch.equal(total, expected_total)


def values(results, k):
    """What the quantised values stand for, fp64."""
    q, scale, *_ = results
    q = q.double().unflatten(1, (scale.size(1), k // scale.size(1)))
    return (q * scale.double().unsqueeze(-1)).flatten(1)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("norm", "quantiser"),
    [
        *((norm, "torchao") for norm in NORMS),
        *(("llama", quantiser) for quantiser in ("vllm", "int8", "e5m2", "groups of 128", "groups of 64, column-major")),
        ("layer", "int8"),
    ],
)
def test_default_is_as_near_to_fp64_as_inductor_and_one_step_from_it(norm, quantiser, residual):
    check_default(NORMS[norm], quantiser, *inputs((257, 4096), torch.bfloat16, residual), granite=norm == "granite")


@pytest.mark.parametrize("norm", ["llama", "nn.RMSNorm"])
@pytest.mark.parametrize(("dtype", "shape"), [s for s in SHAPES if s[1][0] > 1], ids=str)
def test_default_in_every_dtype(norm, dtype, shape):
    check_default(NORMS[norm], "torchao", *inputs(shape, dtype), granite=False)


def check_default(norm, quantiser, x, r, granite):
    weight, bias = norm.parameters(x.size(1), x.dtype, "cuda")

    @torch.compile(backend="inductor", dynamic=False)
    def inductor(x, r, weight, bias, number):
        return tuple(written(norm, quantiser, x, r, weight, bias, number)[:-1])

    ours = call(norm, quantiser, x, r, exact=False)
    theirs = inductor(x, r, weight, bias, QUANTISERS[quantiser].number("cuda"))
    if r is not None:
        # Granite's product and sum may be one operation in one of the two.
        assert torch.equal(ours[2], theirs[2]) or (granite and relative_error(ours[2], theirs[2]) <= 2**-9)
    if bias is None:
        assert quantised_steps(ours[0], theirs[0]).max() <= 1
    else:
        # What is left where the bias cancels has lost the digits that a step of its own counts: one more 256th of the
        # row's largest value.
        a, b = ours[0].float(), theirs[0].float()
        largest = b.abs().amax(-1, keepdim=True)
        step = torch.maximum(a.abs(), b.abs()) / 8 if quantiser != "int8" else 1.0
        assert ((a - b).abs() <= step + largest / 256).all()
    x64 = x.double() if r is None else x.double() * (0.22 if granite else 1.0) + r.double()
    if "layer" in norm.text(x.dtype):
        x64 = x64 - x64.mean(-1, keepdim=True)
    truth = x64 * torch.rsqrt(x64.pow(2).mean(-1, keepdim=True) + EPS)
    if weight is not None:
        truth = truth * (weight.double() + ("weight_offset" in norm.text(x.dtype)))
    if bias is not None:
        truth = truth + bias.double()
    error, their_error = (relative_error(values(results, x.size(1)), truth) for results in (ours, theirs))
    # Both make the same roundings but for fp32's last bits, which move single bytes up or down at random: of the error
    # that fp8 rounding itself makes, 1e-3 is more than such bytes can add.
    assert error <= their_error * 1.001


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("quantiser", ["torchao", "static", "int8", "groups of 128"])
@pytest.mark.parametrize("norm", ["llama", "layer"])
@pytest.mark.parametrize(("dtype", "k"), [(torch.bfloat16, 3968), (torch.float32, 128)], ids=str)
def test_special_rows(norm, quantiser, dtype, k, exact):
    x = rows_with_special_values(k, dtype, "cuda")
    q, *rest = call(NORMS[norm], quantiser, x, None, exact=exact)
    expected_q, *expected, _ = eager(NORMS[norm], quantiser, x, None)
    assert quantised_steps(q, expected_q).max() <= 1
    for scale, value in zip(rest, expected, strict=True):
        torch.testing.assert_close(scale, value, rtol=2**-7, atol=0, equal_nan=True)


@pytest.mark.parametrize("exact", [True, False])
def test_a_layer_norm_far_from_zero(exact):
    x = (1000 + torch.randn(257, 4096, device="cuda")).float()
    norm = NORMS["layer"]
    *_, out = call(norm, "vllm", x, None, exact=exact, keep_norm=True)
    weight, bias = norm.parameters(4096, x.dtype, "cuda")
    expected = torch.nn.functional.layer_norm(x.double(), (4096,), weight.double(), bias.double(), eps=EPS)
    assert relative_error(out, expected) < 1e-4


@pytest.mark.parametrize("quantiser", ["torchao", "static", "groups of 128, TMA-aligned, ue8m0"])
@pytest.mark.parametrize("m", [0, 1, 13, 257])
def test_any_number_of_rows(m, quantiser):
    x, r = inputs((m, 4096), torch.bfloat16)
    results = call(LLAMA, quantiser, x, r, exact=True, keep_norm=True)
    expected = eager(LLAMA, quantiser, x, r)
    assert [(t.shape, t.dtype) for t in results] == [(t.shape, t.dtype) for t in expected]
    assert torch.equal(results[-2], x + r)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("quantiser", ["torchao", "groups of 128"])
def test_many_rows(quantiser, exact):
    x, r = inputs((131072, 128), torch.bfloat16)
    q, scale, total = call(LLAMA, quantiser, x, r, exact=exact)
    expected_q, expected_scale, expected_total, _ = eager(LLAMA, quantiser, x, r)
    assert torch.equal(total, expected_total)
    steps = fp8_steps(q, expected_q)
    assert steps.max() <= 1
    assert not exact or (steps > 0).float().mean() <= 1e-3
    torch.testing.assert_close(scale, expected_scale, rtol=2**-6, atol=0)


def test_offsets_beyond_32_bits():
    x = torch.randn(131072, 16640, device="cuda", dtype=torch.bfloat16)  # 2.18e9 elements
    q, scale = call(LLAMA, "torchao", x, None, exact=True)
    last = slice(-3, None)
    expected_q, expected_scale, _ = eager(LLAMA, "torchao", x[last], None)
    assert fp8_steps(q[last], expected_q).max() <= 1
    torch.testing.assert_close(scale[last], expected_scale, rtol=2**-6, atol=0)


def test_a_slice_beyond_32_bit_offsets_is_refused():
    x = torch.empty(65536, 57344, device="cuda", dtype=torch.bfloat16)[:, :64]
    with pytest.raises(KernelArgumentError, match="x reaches 3758039104 elements into memory"):
        call(LLAMA, "torchao", x, None, exact=True)


def test_rows_of_a_wider_tensor():
    wide = torch.randn(33, 4100, device="cuda", dtype=torch.bfloat16)
    x, r = wide[:, 3:4099], wide[:, 1:4097]  # strided, and not 16-byte aligned
    for quantiser in ("torchao", "groups of 128"):
        results = call(LLAMA, quantiser, x, r, exact=True)
        for result, expected in zip(results, call(LLAMA, quantiser, x.contiguous(), r.contiguous(), exact=True), strict=True):
            assert same_rows(result, expected).all()


def test_one_tensor_as_two_arguments_and_then_two_tensors():
    x, r = inputs((64, 4096), torch.bfloat16)
    for residual in (x, r):
        _, _, total = call(LLAMA, "torchao", x, residual, exact=True)
        assert torch.equal(total, x + residual)
