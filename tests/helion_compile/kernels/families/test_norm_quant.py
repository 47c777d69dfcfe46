# SPDX-License-Identifier: Apache-2.0
"""``norm_quant`` on a CPU: its body and its reference against norms and quantisers as models write them."""

import pytest
import torch

from helion_compile.kernels import norm_quant
from helion_compile.kernels.device.normalize import NormAttrs
from tests.support.corpus.kernel_norms import EPS, NORMS, UNROUNDED
from tests.support.corpus.kernel_quantisers import QUANTISERS
from tests.support.numerics import quantised_steps, relative_error, rows_with_special_values
from tests.support.pairwise import pairwise

ALL = {**NORMS, "vLLM's unrounded sum": UNROUNDED}
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
M, K = 13, 256


def randn(dtype, seed):
    return torch.randn(M, K, generator=torch.Generator().manual_seed(seed)).to(dtype)


def call(norm, quantiser, dtype, x, residual, *, exact, keep_norm=True):
    """The kernel's arguments."""
    scale, scale_ub, text = QUANTISERS[quantiser].arguments(dtype, QUANTISERS[quantiser].number("cpu"))
    weight, bias = norm.parameters(K, dtype, "cpu")
    return x, weight, bias, residual, scale, scale_ub, EPS, norm.text(dtype), text, exact, keep_norm


def eager(norm, quantiser, dtype, x, residual):
    weight, bias = norm.parameters(K, dtype, "cpu")
    read, total = (x, None) if residual is None else norm.add(x, residual)
    out = norm.written(read, weight, bias, norm.factor_of(read))
    quantised = QUANTISERS[quantiser].results(out, QUANTISERS[quantiser].number("cpu"))
    return [*quantised, *([] if total is None else [total]), out]


def assert_equal(got, expected):
    for result, value in zip(got, expected, strict=True):
        assert (result.dtype, result.shape, result.stride()) == (value.dtype, value.shape, value.stride())
        assert torch.equal(result.double().nan_to_num(9e9), value.double().nan_to_num(9e9))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "with_residual"), [*((name, True) for name in ALL), *((name, False) for name in NORMS)])
def test_the_exact_reference_is_eager_bit_for_bit(name, with_residual, dtype):
    residual = randn(dtype, 1) if with_residual else None
    for x in (randn(dtype, 0), rows_with_special_values(K, dtype, "cpu")):
        rows = None if residual is None else residual[: len(x)]
        got = norm_quant.reference(*call(ALL[name], "vllm", dtype, x, rows, exact=True))
        assert_equal(got, eager(ALL[name], "vllm", dtype, x, rows))


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_the_exact_reference_with_every_quantiser(quantiser):
    dtype = torch.bfloat16
    got = norm_quant.reference(*call(NORMS["llama"], quantiser, dtype, randn(dtype, 0), randn(dtype, 1), exact=True))
    assert_equal(got, eager(NORMS["llama"], quantiser, dtype, randn(dtype, 0), randn(dtype, 1)))


def assert_the_body_is_the_reference(body, arguments):
    """Up to the last bits of fp32, which the two compute in another order."""
    got, expected = list(body(*arguments)), list(norm_quant.reference(*arguments))
    assert len(got) == len(expected)
    if "zero_point" in arguments[8]:  # which moves with the values
        steps, expected_steps = (results.pop(0).short() - results[1] for results in (got, expected))
        assert (steps - expected_steps).abs().max() <= 1
    for result, value in zip(got, expected, strict=True):
        assert (result.dtype, result.shape, result.stride()) == (value.dtype, value.shape, value.stride())
        if result.dtype.itemsize == 1:
            assert quantised_steps(result, value).max() <= 1
        else:
            assert relative_error(result, value) <= 4 * torch.finfo(result.dtype).eps + 2**-9


@pytest.mark.parametrize(("name", "with_residual", "exact"), pairwise(ALL, (False, True), (True, False)), ids=str)
def test_the_body_is_the_reference(name, with_residual, exact, bodies):
    dtype = torch.bfloat16
    residual = randn(dtype, 1) if with_residual else None
    arguments = call(ALL[name], "torchao", dtype, randn(dtype, 0), residual, exact=exact)
    assert_the_body_is_the_reference(bodies[norm_quant], arguments)


@pytest.mark.parametrize(("quantiser", "norm", "exact"), pairwise(QUANTISERS, ("llama", "layer"), (True, False)), ids=str)
def test_the_body_with_every_quantiser(quantiser, norm, exact, bodies):
    arguments = call(NORMS[norm], quantiser, torch.bfloat16, randn(torch.bfloat16, 0), None, exact=exact)
    assert_the_body_is_the_reference(bodies[norm_quant], arguments)


def test_the_bytes_alone_are_one_result(bodies):
    arguments = call(NORMS["llama"], "static", torch.bfloat16, randn(torch.bfloat16, 0), None, exact=True, keep_norm=False)
    assert quantised_steps(bodies[norm_quant](*arguments), norm_quant.reference(*arguments)).max() <= 1


def test_default_keeps_every_step_in_fp32():
    dtype = torch.bfloat16
    x, residual = randn(dtype, 0), randn(dtype, 1)
    for name, norm in NORMS.items():
        weight, bias = norm.parameters(K, dtype, "cpu")
        *_, got = norm_quant.reference(*call(norm, "torchao", dtype, x, residual, exact=False))
        x64 = x.double() * (0.22 if name == "granite" else 1.0) + residual.double()
        if name.startswith("layer"):
            x64 = x64 - x64.mean(-1, keepdim=True)
        truth = x64 * torch.rsqrt(x64.pow(2).mean(-1, keepdim=True) + EPS)
        if weight is not None:
            truth = truth * (weight.double() + (name == "gemma"))
        if bias is not None:
            truth = truth + bias.double()
        once_rounded = relative_error(truth.to(got.dtype), truth)
        assert relative_error(got, truth) <= 1.01 * once_rounded + 1e-6, name


def test_a_layer_norm_far_from_zero():
    """The mean of squares minus the squared mean would leave nothing of the variance."""
    x = 1000 + torch.randn(4, K, generator=torch.Generator().manual_seed(0))
    norm = NormAttrs("layer").text
    text = QUANTISERS["vllm"].text(torch.float32)
    *_, got = norm_quant.reference(x, None, None, None, None, None, EPS, norm, text, False, True)
    expected = torch.nn.functional.layer_norm(x.double(), (K,), eps=EPS)
    assert relative_error(got, expected) < 1e-4


def test_what_no_kernel_computes_is_refused():
    x = torch.empty(4, K, dtype=torch.bfloat16)
    weight, text = torch.empty(K, dtype=torch.float32), QUANTISERS["vllm"].text(x.dtype)

    def reason(residual=None, weight=weight, norm="rms", text=text):
        return norm_quant.check_supported(x, weight, None, residual, None, None, EPS, norm, text, True, False)

    assert reason() is None
    assert "residual is torch.float32 and x is torch.bfloat16" in reason(residual=x.float())
    assert "weight is float64" in reason(weight=weight.double())
    assert "the norm's kind is 'group'" in reason(norm="group")
    assert "the norm's root is 'cbrt'" in reason(norm="rms root=cbrt")
    assert "a scale is shared by 96 of 256 values" in reason(text="float8_e4m3fn group=96")
    wide = torch.empty(4, 2 * K, dtype=torch.bfloat16)[:, ::2]
    assert "the last dimension of residual is not contiguous" in reason(residual=wide)
