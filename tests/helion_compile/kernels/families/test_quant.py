# SPDX-License-Identifier: Apache-2.0
"""``quant`` on a CPU: its body and its reference against quantisers as models write them."""

import pytest
import torch

from helion_compile.kernels import quant
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs
from tests.support.corpus.kernel_quantisers import QUANTISERS
from tests.support.numerics import quantised_steps, rows_with_special_values
from tests.support.pairwise import pairwise

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def inputs(dtype, m=13, k=256):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(m, k, generator=generator) * torch.rand(m, 1, generator=generator).exp2()).to(dtype)


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("name", QUANTISERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_exact_reference_is_eager_bit_for_bit(name, dtype):
    quantiser = QUANTISERS[name]
    number = quantiser.number("cpu")
    for x in (inputs(dtype), rows_with_special_values(256, dtype, "cpu")):
        got = as_tuple(quant.reference(x, *quantiser.arguments(dtype, number), True))
        for result, expected in zip(got, quantiser.results(x, number), strict=True):
            assert (result.dtype, result.shape, result.stride()) == (expected.dtype, expected.shape, expected.stride())
            assert torch.equal(result.double().nan_to_num(9e9), expected.double().nan_to_num(9e9))


@pytest.mark.parametrize(("name", "dtype", "exact"), pairwise(QUANTISERS, DTYPES, (True, False)), ids=str)
def test_the_body_is_the_reference(name, exact, dtype, bodies):
    quantiser = QUANTISERS[name]
    arguments = quantiser.arguments(dtype, quantiser.number("cpu"))
    for x in (inputs(dtype), rows_with_special_values(256, dtype, "cpu")):
        got = as_tuple(bodies[quant](x, *arguments, exact))
        expected = as_tuple(quant.reference(x, *arguments, exact))
        # The body multiplies by reciprocals as the GPU does, so a scale may differ in its last bit.
        assert quantised_steps(got[0], expected[0]).max() <= 1
        assert [t.stride() for t in got] == [t.stride() for t in expected]
        for result, value in zip(got[1:2], expected[1:2], strict=True):
            torch.testing.assert_close(result, value, rtol=2**-7 if exact else 1e-6, atol=0, equal_nan=True)
        for result, value in zip(got[2:], expected[2:], strict=True):
            assert quantised_steps(result, value).max() <= 1


@pytest.mark.parametrize("exact", [True, False])
def test_rows_whose_scale_has_no_reciprocal_in_fp32(exact, bodies):
    x = torch.tensor([[1.0, -0.5, 0.25, 0.0], [1.0, 2.0, 3.0, 4.0]]) * torch.tensor([[2.0**-125], [2.0**-140]])
    text = QUANTISERS["torchao"].text(torch.float32)
    got, _ = bodies[quant](x, None, None, text, exact)
    expected, scale = quant.reference(x, None, None, text, exact)
    assert (scale < 2.0**-127).all()
    assert quantised_steps(got, expected).max() <= 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("float16", "the values become torch.float16"),
        ("float8_e4m3fn clamp=-500:500", "beyond the range of torch.float8_e4m3fn"),
        ("int8", "nothing bounds the values before the cast to torch.int8"),
        ("float8_e5m2", "nothing bounds the values before the cast to torch.float8_e5m2"),
        ("float8_e4m3fn group=100", "a scale is shared by 100 of 256 values"),
        ("float8_e4m3fn group=512", "a scale is shared by 512 of 256 values"),
        ("int8 clamp=-128:127 group=64 zero_point", "a zero point for each 64 values"),
        ("float8_e4m3fn clamp=-448:448 zero_point", "the kernel knows one for torch.int8"),
        ("int8 clamp=-128:127 zero_point scale_dtype=bfloat16", "comes from a division in torch.bfloat16"),
        ("float8_e4m3fn scale_dtype=float64", "the scale is computed in torch.float64"),
    ],
)
def test_what_no_kernel_computes_is_refused(text, reason):
    assert reason in quant.check_supported(torch.empty(4, 256), None, None, text, True)


def test_what_is_no_number_is_refused():
    text, x = "float8_e4m3fn clamp=-448:448", torch.empty(4, 256)
    assert quant.check_supported(x, torch.ones(1), torch.ones(()), text, True) is None
    assert "scale is float32 [4, 1]" in quant.check_supported(x, torch.ones(4, 1), None, text, True)
    assert "scale_ub is bfloat16 [1]" in quant.check_supported(x, None, torch.ones(1, dtype=torch.bfloat16), text, True)


@pytest.mark.parametrize("exact", [True, False])
def test_a_scale_becomes_a_power_of_two_after_it_was_rounded(exact, bodies):
    """A step there is a factor of two, so default numerics round it to the model's dtype too."""
    x = torch.tensor([[448.0 * (1 + 2**-10), 1.0, 0.0, -3.0]])
    text = QuantizeAttrs(torch.float8_e4m3fn, clamp=(-448.0, 448.0), scale_dtype=torch.bfloat16, ue8m0=True).text
    for run in (bodies[quant], quant.reference):
        assert run(x, None, None, text, exact)[1].item() == 1.0


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("amax", [0.0, 1e-9])
def test_a_scale_becomes_a_power_of_two_before_its_floor(amax, exact, bodies):
    text = QuantizeAttrs(torch.float8_e4m3fn, clamp=(-448.0, 448.0), amax_floor=1e-12, scale_floor=1e-10, ue8m0=True).text
    for run in (bodies[quant], quant.reference):
        scale = run(torch.tensor([[amax, 0.0, 0.0, -amax]]), None, None, text, exact)[1]
        assert scale.item() == torch.tensor(1e-10).item()


@pytest.mark.parametrize("exact", [True, False])
def test_int8_is_rounded_half_to_even(exact, bodies):
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -127.5]])
    text = QuantizeAttrs(torch.int8, clamp=(-128.0, 127.0)).text
    for run in (bodies[quant], quant.reference):
        results = run(x, torch.ones(1), None, text, exact)
        assert as_tuple(results)[0].tolist() == [[0, 2, 2, 0, -2, -2, 126, -128]]
