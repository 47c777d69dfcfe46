# SPDX-License-Identifier: Apache-2.0
"""Distances in steps, and what is within a contract."""

import math
from dataclasses import replace

import pytest
import torch

from helion_compile.passes.semantics import (
    Activation,
    ActivationFunction,
    ActivationRounding,
    Matmul,
    Norm,
    NormKind,
    NormRounding,
    Quantize,
    Rope,
    RopePairs,
    RopeRounding,
    RopeTable,
    ScaleUse,
)
from helion_compile.verify.compare import compare
from helion_compile.verify.contract import Contract, contract_of

FP8, BF16, FP32 = torch.float8_e4m3fn, torch.bfloat16, torch.float32
QUANTIZE = Quantize(x_dtype=BF16, dtype=FP8, qmax=448.0, scale_dtype=FP32, use=ScaleUse.DIVIDE, clamp=None)
NORM = Norm(eps=1e-6, x_dtype=BF16, dtype=BF16, weight_dtype=BF16, rounding=NormRounding.SCALE_THEN_CAST)
MATMUL = Matmul(dtype=BF16)
GELU = Activation(function=ActivationFunction.GELU, gated=False, x_dtype=BF16, dtype=BF16, rounding=ActivationRounding.RESULT)
ROPE = Rope(
    pairs=RopePairs.NEOX,
    table=RopeTable.PAIR,
    rotary_dim=64,
    x_dtype=BF16,
    dtype=BF16,
    table_dtype=BF16,
    rounding=RopeRounding.RESULT,
)
DEFAULT = contract_of([QUANTIZE], "default")
EXACT = contract_of([QUANTIZE], "exact")
EXACT_BEHIND_A_SUM = contract_of([NORM, QUANTIZE], "exact")


def tensor(*values, dtype=BF16):
    return torch.tensor(values, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(
    ("dtype", "a", "b", "steps"),
    [
        (BF16, 1.0, 1.0 + 2**-7, 1),
        (BF16, 1.0, 1.0 - 2**-8, 1),  # below a power of two steps are half as wide
        (BF16, -1.0, -1.0 - 2**-7, 1),
        (BF16, 256.0, 260.0, 2),
        (FP8, 16.0, 18.0, 1),
        (FP8, 448.0, 416.0, 1),
        (FP8, 2**-9, 0.0, 1),  # the smallest magnitude of e4m3
        (FP8, 2**-9, -(2**-9), 2),
        (torch.int8, 5, -3, 8),
        (FP32, 1.0 + 2**-20, 1.0 + 2**-20 + 2**-22, 2),
    ],
)
def test_steps(dtype, a, b, steps):
    found = compare("q", tensor(a, dtype=dtype), tensor(b, dtype=dtype), None, DEFAULT)
    assert found.max_steps == steps and found.differing == 1
    assert compare("q", tensor(b, dtype=dtype), tensor(a, dtype=dtype), None, DEFAULT).max_steps == steps


def test_a_scale_that_the_model_rounds_to_bf16_is_measured_in_steps_of_bf16():
    original = tensor(1.0, 0.5, dtype=FP32)
    found = compare("scale", original * (1 + 2**-9), original, original, DEFAULT)
    assert found.max_steps == pytest.approx(0.25)


def test_between_the_original_and_fp64_is_within_the_contract_and_a_step_beyond():
    original, truth = tensor(1.0), tensor(1.0 + 4 * 2**-7)
    for steps, broken in ((0, ""), (2, ""), (4, ""), (5, ""), (-1, ""), (6, "2 steps from the original and the fp64 result")):
        found = compare("out", tensor(1.0 + steps * 2**-7 if steps >= 0 else 1.0 - 2**-8), original, truth, DEFAULT)
        assert broken in found.broken and bool(found.broken) == bool(broken), steps


def test_without_a_result_in_fp64_a_step_more_is_allowed():
    original = tensor(1.0)
    assert not compare("out", tensor(1.0 + 2 * 2**-7), original, None, DEFAULT).broken
    assert (
        "3 steps from the original, where 2 are allowed"
        in compare("out", tensor(1.0 + 3 * 2**-7), original, None, DEFAULT).broken
    )


def test_nan():
    nan, one = tensor(math.nan, 1.0), tensor(1.0, 1.0)
    assert not compare("q", nan, nan, nan, DEFAULT).broken
    assert "1 NaNs of the original are numbers" in compare("q", one, nan, nan, DEFAULT).broken
    assert "1 numbers are NaN" in compare("q", nan, one, one, DEFAULT).broken
    infinite = tensor(math.inf, 1.0)
    assert not compare("q", infinite, infinite, infinite, DEFAULT).broken
    assert compare("q", infinite, one, one, DEFAULT).broken


def test_where_the_original_overflows_on_the_way_fp64_is_the_measure():
    """fp16 turns a product of 90000 into inf, and what is scaled by it into 0 and NaN; fp32 and fp64 do not."""
    original, truth = torch.tensor([math.inf, math.nan, 0.0]), torch.tensor([200.0, 448.0, 3.0], dtype=torch.float64)
    assert not compare("out", truth.float(), original, truth, DEFAULT).broken
    assert not compare("out", original, original, truth, DEFAULT).broken
    for index, wrong in ((0, 300.0), (0, math.nan), (1, 300.0), (2, 4.0)):
        fused = truth.float()
        fused[index] = wrong
        assert compare("out", fused, original, truth, DEFAULT).broken
    for contract in (EXACT, EXACT_BEHIND_A_SUM):
        assert "1 NaNs of the original are numbers" in compare("out", truth.float(), original, truth, contract).broken


def test_farther_from_fp64_than_the_original():
    """Rounding towards zero keeps each element within a step, and is worse as a whole."""
    truth = torch.linspace(1, 400, 4000, dtype=torch.float64)
    nearest = truth.to(BF16)
    lower = torch.where(nearest.double() > truth, torch.nextafter(nearest, torch.zeros_like(nearest)), nearest)
    found = compare("out", lower, nearest, truth, DEFAULT)
    assert found.max_steps == 1 and "farther from the fp64 result than the original" in found.broken
    assert found.sqnr < found.original_sqnr - 1
    assert not compare("out", nearest, nearest, truth, DEFAULT).broken


def test_a_few_values_more_that_rounded_the_other_way_are_chance():
    """Of 4096 values in int8, 19 may be a step off where in the original 15 others are, 1 dB; not 60."""
    truth = torch.arange(4096.0, dtype=torch.float64) % 100
    original = truth.to(torch.int8)
    original[:15] += 1
    fused = [truth.to(torch.int8) for _ in range(2)]
    for values, off in zip(fused, (19, 60), strict=True):
        values[100 : 100 + off] += 1
    few, many = (compare("q", values, original, truth, DEFAULT) for values in fused)  # deviations: 5.8 and 8.7
    assert few.sqnr < few.original_sqnr - 1 and not few.broken
    assert "farther from the fp64 result" in many.broken


class TestExact:
    def test_without_a_sum_no_bit_may_differ(self):
        assert EXACT.bits
        original = tensor(1.0, 2.0)
        assert not compare("q", original, original, original, EXACT).broken
        assert "where 0 are allowed" in compare("q", tensor(1.0, 2.0 + 2**-6), original, original, EXACT).broken

    def test_behind_a_sum_few_may_by_one_step(self):
        original = torch.ones(100, 40, dtype=BF16)
        few, many, far = original.clone(), original.clone(), original.clone()
        few[0] = 1 + 2**-7  # one row
        many[:9] = 1 + 2**-7
        far[0, 0] = 1 + 2**-6
        assert not compare("q", few, original, original, EXACT_BEHIND_A_SUM).broken
        assert "9.00% of the elements differ, where 0.10%" in compare("q", many, original, original, EXACT_BEHIND_A_SUM).broken
        assert "2 steps" in compare("q", far, original, original, EXACT_BEHIND_A_SUM).broken

    def test_behind_a_sum_any_value_in_fp32_may_by_its_order(self):
        original = torch.randn(100, 40, generator=torch.Generator().manual_seed(0))
        reordered, wrong = original * (1 + 2**-22), original * (1 + 2**-15)
        assert not compare("out", reordered, original, original, EXACT_BEHIND_A_SUM).broken
        assert "where 64 are allowed" in compare("out", wrong, original, original, EXACT_BEHIND_A_SUM).broken
        rounded = original.to(BF16).float()  # as a model in bf16 rounds its scales
        assert "of the elements differ" in compare("scale", rounded * (1 + 2**-8), rounded, rounded, EXACT_BEHIND_A_SUM).broken


def test_a_product_is_measured_at_the_scale_of_its_row():
    original = torch.tensor([[100.0, 0.001]], dtype=BF16)
    fused = torch.tensor([[100.0, 0.1]], dtype=BF16)
    product = contract_of([MATMUL], "default")
    assert not compare("out", fused, original, original, product).broken
    assert compare("out", fused, original, original, DEFAULT).broken


def test_where_values_cancel():
    cancelling = (ROPE, replace(NORM, kind=NormKind.LAYER), replace(NORM, bias_dtype=BF16), MATMUL)
    assert all(contract_of([op], numerics).at_row_scale for op in cancelling for numerics in ("default",))
    assert not contract_of([NORM, QUANTIZE], "default").at_row_scale


class TestGelu:
    """1 + erf(x) of a negative x cancels in fp32, which is little beside the row's largest value and much of a small one."""

    CONTRACT = contract_of([GELU, QUANTIZE], "default")

    def test_what_cancels_is_a_part_of_the_largest_value(self):
        original = torch.tensor([[4.0, -1e-6]])
        assert not compare("out", original + torch.tensor([0, 2**-17]), original, original, self.CONTRACT).broken
        assert compare("out", original + torch.tensor([0, 2**-15]), original, original, self.CONTRACT).broken
        assert compare("out", original + torch.tensor([0, 2**-17]), original, original, DEFAULT).broken

    @pytest.mark.parametrize("dtype", [FP8, BF16, torch.float16, FP32])
    def test_the_other_gelu_is_caught(self, dtype):
        """It is at most 5e-4 from the right one, beside values of 3."""
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        right, other = (torch.nn.functional.gelu(x, approximate=how) for how in ("none", "tanh"))
        scale = right.abs().amax(-1, keepdim=True) / 448.0 if dtype == FP8 else torch.ones(())
        original, fused = ((value / scale).to(dtype) for value in (right, other))
        truth = original if dtype == FP8 else right
        assert not compare("out", original, original, truth, self.CONTRACT).broken
        assert compare("out", fused, original, truth, self.CONTRACT).broken


def test_a_text_for_each():
    original = tensor(1.0, 2.0)
    assert str(compare("q", original, original, original, DEFAULT)) == "q: equal"
    differs = compare("q", tensor(1.0, 2.0 + 2**-6), original, tensor(1.0, 2.0 + 2**-6, dtype=torch.float64), DEFAULT)
    assert str(differs) == "q: 50.00% differ, by up to 1 steps (0.0156), as in fp64 (original 43.2 dB)"


def test_contracts_are_values():
    assert contract_of([NORM], "default") == contract_of([QUANTIZE], "default") == Contract(margin=1.0)
