# SPDX-License-Identifier: Apache-2.0
"""Graphs that differ from a quantiser in one operation of its scale: left alone, and the reason says why.

Scales of one token are in test_quantize.py.
"""

import functools

import pytest
import torch
import torch.nn.functional as F

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Granularity, ScaleLayout
from tests.support import checks, programs
from tests.support.capture import capture
from tests.support.programs import E4M3

BF16, INT8 = torch.bfloat16, torch.int8
X = programs.tensor(8, 64)
OTHER = programs.tensor(8, 64, seed=1)

refused = functools.partial(checks.refused, "quantize")


def bounded(values):
    return values.clamp(-448, 448).to(E4M3)


class TestOneScaleATensor:
    def test_of_another_tensor(self):
        def program(x, other):
            scale = other.abs().max().float() / 448.0
            return bounded(x.float() / scale), scale

        assert refused(program, X, OTHER).startswith("the scale is taken from the graph input arg0_1, but")

    def test_of_values_with_their_sign(self):
        def program(x):
            scale = x.max().float() / 448.0
            return bounded(x.float() / scale), scale

        assert refused(program, X).startswith("expected the magnitude of x (aten.abs.default), found")

    def test_of_the_mean(self):
        def program(x):
            scale = x.abs().float().mean() / 448.0
            return bounded(x.float() / scale), scale

        assert refused(program, X).startswith("expected the scale, max |x| / qmax, found aten.mean")

    def test_of_the_smallest(self):
        def program(x):
            scale = x.abs().min().float() / 448.0
            return bounded(x.float() / scale), scale

        assert "found aten.min.default" in refused(program, X)

    def test_over_the_rows_alone(self):
        def program(x):
            scale = x.abs().amax((0, 1)).float() / 448.0
            return bounded(x.float() / scale), scale

        assert "over [0, 1] of 3" in refused(program, programs.tensor(2, 8, 64))


class TestStatic:
    scale = torch.tensor([0.5])

    def test_one_scale_a_column(self):
        reason = refused(lambda x, s: bounded(x.float() / s), X, torch.ones(64))
        assert "several static scales are in no pattern yet; one for all values fuses" in reason

    def test_a_scale_with_which_something_is_computed(self):
        reason = refused(lambda x, s: bounded(x.float() / (s * 2)), X, self.scale)
        assert reason.startswith("expected the scale") or "something is computed with it" in reason

    def test_a_scale_in_bf16(self):
        reason = refused(lambda x, s: bounded(x.float() / s), X, self.scale.bfloat16())
        assert reason.endswith(", is bf16; a scale in fp32 fuses")

    def test_a_number(self):
        assert "a constant of the graph; a scale that is a tensor fuses" in refused(lambda x: bounded(x.float() / 0.5), X)

    def test_a_factor(self):
        reason = refused(lambda x, s: bounded(x.float() * s), X, self.scale)
        assert reason.endswith("a given factor, or none, is in no pattern yet")

    def test_values_in_bf16(self):
        reason = refused(lambda x, s: bounded(x / s), X, torch.tensor(0.5))
        assert reason == "x is scaled in bf16; scaled in fp32, as x.float() / scale, it fuses"

    def test_int8_with_a_zero_point(self):
        def program(x, scale, zero):
            return ((x.float() / scale).round() + zero).clamp(-128, 127).to(INT8)

        reason = refused(program, X, self.scale, torch.tensor([3], dtype=INT8))
        assert reason.startswith("a zero point with a static scale is in no pattern yet")


class TestGroups:
    def test_along_the_other_dimension(self):
        def program(x):
            groups = x.view(8, 2, 32)
            scale = groups.abs().amax(1, keepdim=True).float() / 448.0
            return bounded(groups.float() / scale), scale

        assert "expected the largest magnitude over the last dimension" in refused(program, X)

    def test_over_several_rows(self):
        def program(x):
            blocks = x.view(4, 2, 2, 32)
            scale = blocks.abs().amax((1, 3), keepdim=True).float() / 448.0
            return bounded(blocks.float() / scale), scale

        assert "over [1, 3] of 4" in refused(program, X)

    def test_scales_of_other_groups(self):
        def program(x):
            scale = x.view(8, 2, 32).abs().amax(-1, keepdim=True).float() / 448.0
            return bounded(x.view(8, 4, 16).float() / scale.repeat_interleave(2, 1)), scale

        assert "expected the scale, max |x| / qmax, found" in refused(program, X)

    def test_scales_of_other_views(self):
        def program(x):
            scale = x.view(16, 32).abs().amax(-1, keepdim=True).float() / 448.0
            return bounded(x.view(8, 2, 32).float() / scale.view(8, 2, 1)), scale

        assert refused(program, X).startswith("the scale is taken from")

    @pytest.mark.parametrize(
        ("repeat", "found"),
        [
            (lambda scale: scale[:, None].expand(4, 128, 2).reshape(4, 256), "aten.clone"),  # one for every second value
            (lambda scale: scale.roll(1, 0).repeat_interleave(128, -1), "aten."),
        ],
    )
    def test_scales_that_are_repeated_for_others(self, repeat, found):
        def program(x):
            scale = x.float().view(4, 2, 128).abs().amax(-1) / 448.0
            return (x.float() / repeat(scale)).clamp(-448, 448).to(E4M3), scale

        reason = refused(program, programs.tensor(4, 256))
        assert reason.startswith(f"expected the scale, max |x| / qmax, found {found}")

    def test_repeated_scales_of_another_tensor(self):
        def program(x, other):
            scale = other.float().view(4, 2, 128).abs().amax(-1) / 448.0
            return (x.float() / scale.repeat_interleave(128, -1)).clamp(-448, 448).to(E4M3), scale

        reason = refused(program, programs.tensor(4, 256), programs.tensor(4, 256, seed=1))
        assert "is scaled with it; a scale from the largest magnitude of the same x fuses" in reason

    def test_scales_read_in_two_layouts_are_read_in_the_first(self):
        def program(x):
            groups = x.view(8, 2, 32)
            scale = groups.abs().amax(-1).float() / 448.0
            return bounded(groups.float() / scale[..., None]), scale, scale.t().contiguous().t()

        (match,) = match_graph(capture(program, X).graph).matches
        assert match.op.granularity is Granularity.GROUP
        assert match.op.scale_layout is ScaleLayout.ROW_MAJOR

    @pytest.mark.parametrize(
        "laid_out",
        [
            lambda scale: scale.t().contiguous(),
            lambda scale: F.pad(scale, (0, 0, 1, 0)).t().contiguous().t()[:8],
            lambda scale: F.pad(scale, (0, 0, 0, 4)).t().contiguous().t()[1:9],
        ],
        ids=["transposed", "padded above", "without the first row"],
    )
    def test_layouts_that_are_none(self, laid_out):
        def program(x):
            groups = x.view(8, 2, 32)
            scale = groups.abs().amax(-1).float() / 448.0
            return bounded(groups.float() / scale[..., None]), laid_out(scale)

        (match,) = match_graph(capture(program, X).graph).matches
        assert match.op.scale_layout is ScaleLayout.ROW_MAJOR


class TestPowersOfTwo:
    def program(self, power):
        def program(x):
            scale = power(x.abs().amax(-1, keepdim=True).float() / 448.0)
            return bounded(x.float() / scale), scale

        return program

    def test_rounded_down(self):
        reason = refused(self.program(lambda s: torch.exp2(torch.floor(torch.log2(s)))), X)
        assert reason.startswith("expected the exponent of a scale, rounded up (aten.ceil.default), found aten.floor")

    def test_rounded_to_the_nearest(self):
        assert "found aten.round" in refused(self.program(lambda s: torch.exp2(torch.round(torch.log2(s)))), X)

    def test_another_logarithm(self):
        assert "found aten.log.default" in refused(self.program(lambda s: torch.exp2(torch.ceil(torch.log(s)))), X)

    def test_another_base(self):
        reason = refused(self.program(lambda s: torch.pow(4.0, torch.ceil(torch.log2(s)))), X)
        assert "2 ** ceil(log2(scale)) in fp32, found aten.pow.Scalar" in reason

    def test_a_floor_before_that_is_no_normal_number(self):
        reason = refused(self.program(lambda s: torch.exp2(torch.ceil(torch.log2(s.clamp(min=1e-40))))), X)
        assert reason.endswith("a normal number above 0 fuses")


class TestUpperBound:
    bound = torch.tensor([1.5])

    def test_after_the_floor(self):
        def program(x, bound):
            scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-4).clamp(max=bound) / 448.0
            return bounded(x.float() / scale), scale

        assert refused(program, X, self.bound).startswith("max |x| is bounded from below before it is bounded above")

    def test_of_the_scale(self):
        def program(x, bound):
            scale = (x.abs().amax(-1, keepdim=True).float() / 448.0).clamp(max=bound)
            return bounded(x.float() / scale), scale

        assert refused(program, X, self.bound).startswith("expected one constant floor under the scale, found")

    def test_one_for_each_token(self):
        def program(x, bound):
            scale = x.abs().amax(-1, keepdim=True).float().clamp(max=bound) / 448.0
            return bounded(x.float() / scale), scale

        assert "expected one constant floor under the scale" in refused(program, X, torch.ones(8, 1))

    def test_rounded_with_the_magnitude(self):
        def program(x, bound):
            amax = x.abs().amax(-1, keepdim=True).float().clamp(max=bound).to(BF16)
            scale = (amax / 448.0).float()
            return bounded(x.float() / scale), scale

        assert refused(program, X, self.bound) == "scale_ub is rounded to bf16 with amax; kept in fp32 it fuses"

    def test_bounds_that_contradict(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True).float().clamp(min=2.0).clamp(max=1.0) / 448.0
            return bounded(x.float() / scale), scale

        assert refused(program, X) == "max |x| is bounded to [2, 1], which is empty; bounds in their order fuse"


class TestFactor:
    def program(self, factor, scale):
        def program(x):
            amax = x.abs().amax(-1, keepdim=True).float()
            given = factor(amax)
            return bounded(x.float() * given), scale(amax, given)

        return program

    def test_a_scale_of_another_range(self):
        reason = refused(self.program(lambda amax: 448.0 / amax, lambda amax, factor: amax / 240.0), X)
        assert "of which nobody computes a scale" in reason

    def test_a_true_quotient(self):
        program = self.program(lambda amax: torch.full((), 448.0) / amax, lambda amax, factor: 1 / factor)
        assert "qmax / amax rounds differently" in refused(program, X)

    def test_a_scale_that_is_squared(self):
        reason = refused(self.program(lambda amax: 448.0 / amax, lambda amax, factor: factor * factor), X)
        assert "of which nobody computes a scale" in reason

    def test_a_factor_that_is_rounded(self):
        def program(x):
            factor = (448.0 / x.abs().amax(-1, keepdim=True).float()).to(BF16)
            return bounded(x.float() * factor), 1 / factor.float()

        assert refused(program, X)


class TestRowsOfZeros:
    x = programs.tensor(8, 64)

    def program(self, instead):
        def program(x):
            x32 = x.float()
            scale = instead(x32.abs().amax(-1, keepdim=True)) / 448.0
            return (x32 / scale).clamp(-448, 448).to(E4M3), scale

        return program

    def test_a_condition_that_is_true_for_zeros(self):
        reason = refused(self.program(lambda amax: torch.where(amax >= 0, amax, 1.0)), self.x)
        assert reason.startswith("expected where(max |x| > 0, max |x|, a constant), found aten.where.self")

    def test_another_value_under_the_condition(self):
        reason = refused(self.program(lambda amax: torch.where(amax.roll(1) > 0, amax, 1.0)), self.x)
        assert reason.startswith("expected where(max |x| > 0, max |x|, a constant), found aten.where.self")

    def test_no_constant(self):
        reason = refused(self.program(lambda amax: torch.where(amax > 0, amax, amax.cos())), self.x)
        assert reason.startswith("expected where(max |x| > 0, max |x|, a constant), found aten.where.self")

    @pytest.mark.parametrize("before", [False, True])
    def test_a_floor_as_well(self, before):
        def instead(amax):
            amax = amax.clamp(min=1e-12) if before else amax
            amax = torch.where(amax > 0, amax, 1.0)
            return amax if before else amax.clamp(min=1e-12)

        reason = "max |x| is bounded from below and has a constant for rows of zeros; one of both fuses"
        assert refused(self.program(instead), self.x) == reason
