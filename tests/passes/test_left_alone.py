"""Graphs that differ from a spelling in one operation, by meaning and scheme: left alone, and the reason says why.

Norms over a mean of squares and scales of one token have theirs in test_norm.py and test_quantize.py.
"""

import programs
import pytest
import torch
import torch.nn.functional as F
from capture import capture
from programs import E4M3

from passes.meanings import Granularity, ScaleLayout
from passes.reading import read

BF16, FP32, INT8 = torch.bfloat16, torch.float32, torch.int8
EPS = 1e-5
X = programs.tensor(8, 64)
OTHER = programs.tensor(8, 64, seed=1)


def reading_of(function, *args):
    return read(capture(function, *args).graph)


def refused(function, *args):
    """The reason for which the one candidate of a function was not read."""
    reading = reading_of(function, *args)
    assert not reading.regions
    (refusal,) = reading.refusals
    assert refusal.location.file == __file__
    assert refusal.found and refusal.remedy, refusal.reason
    return refusal.reason


def bounded(values):
    return values.clamp(-448, 448).to(E4M3)


def whole(values):
    return values.round().clamp(-128, 127).to(INT8)


class TestLayerNorm:
    def test_a_variance_of_a_sample(self):
        def program(x):
            x32 = x.float()
            return ((x32 - x32.mean(-1, keepdim=True)) * torch.rsqrt(x32.var(-1, keepdim=True) + EPS)).to(x.dtype)

        assert "divides by K - 1; a variance that divides by K fuses" in refused(program, X)

    def test_eps_beside_the_root(self):
        def program(x):
            x32 = x.float()
            return (x32 - x32.mean(-1, keepdim=True)) / (x32.std(-1, keepdim=True, unbiased=False) + EPS)

        assert refused(program, X).startswith("there is no eps under the root")

    def test_a_variance_as_a_difference(self):
        def program(x):
            x32 = x.float()
            mean = x32.mean(-1, keepdim=True)
            variance = x32.pow(2).mean(-1, keepdim=True) - mean.pow(2)
            return ((x32 - mean) * torch.rsqrt(variance + EPS)).to(x.dtype)

        assert "a variance as mean(x²) - mean(x)² loses digits" in refused(program, X)

    def test_the_mean_of_another_tensor(self):
        def program(x, other):
            x32 = x.float()
            variance = x32.var(-1, keepdim=True, unbiased=False)
            return ((x32 - other.float().mean(-1, keepdim=True)) * torch.rsqrt(variance + EPS)).to(x.dtype)

        assert "with the x whose mean was taken, found aten.mul.Tensor" in refused(program, X, OTHER)

    def test_values_with_their_mean(self):
        def program(x):
            x32 = x.float()
            return (x32 * torch.rsqrt(x32.var(-1, keepdim=True, unbiased=False) + EPS)).to(x.dtype)

        assert "with the x whose mean was taken, found aten.mul.Tensor" in refused(program, X)

    def test_statistics_in_bf16(self):
        def program(x):
            centred = x - x.mean(-1, keepdim=True)
            return centred * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + EPS)

        assert refused(program, X) == "the mean is taken in bf16; a norm with its mean in fp32 fuses"

    def test_two_dimensions(self):
        assert "over [0, 1] of 2" in refused(lambda x: F.layer_norm(x, (8, 64)), X)

    def test_a_bias_for_each_token_stays_outside(self):
        reading = reading_of(lambda x, w, b: F.layer_norm(x.float(), (64,)) * w.float() + b.float(), X, X[0], OTHER)
        (region,) = reading.regions
        assert region.meaning.weight_dtype is BF16 and region.meaning.bias_dtype is None


class TestRoot:
    def test_a_bound_instead_of_eps(self):
        def program(x):
            x32 = x.float()
            return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True).clamp(min=EPS))).to(x.dtype)

        assert "an eps that bounds the mean is another function" in refused(program, X)

    def test_no_eps(self):
        def program(x):
            x32 = x.float()
            return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True))).to(x.dtype)

        assert refused(program, X).startswith("there is no eps under the root")

    def test_multiplied_by_the_root(self):
        def program(x):
            x32 = x.float()
            return (x32 * torch.sqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)

        assert refused(program, X).startswith("expected x / sqrt(…) in fp32")

    def test_divided_by_the_inverse_root(self):
        def program(x):
            x32 = x.float()
            return (x32 / torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)

        assert refused(program, X).startswith("expected x * rsqrt(…) in fp32")

    def test_another_power(self):
        def program(x):
            x32 = x.float()
            return (x32 * (x32.pow(2).mean(-1, keepdim=True) + EPS) ** -0.25).to(x.dtype)

        reading = reading_of(program, X)
        assert not reading.regions and not reading.refusals

    def test_a_weight_in_a_column(self):
        def program(x, weight):
            x32 = x.float()
            return weight[:, None] * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)

        assert "has shape [64, 1]; shape [64] fuses" in refused(program, programs.tensor(64, 64), X[0])


class TestResidual:
    """What is read is a norm of less."""

    def only(self, function, *args):
        reading = reading_of(function, *args)
        assert not reading.refusals
        (region,) = reading.regions
        return region

    def test_a_difference(self):
        assert not self.only(lambda x, r, w: programs.llama_norm(x - r, w), X, OTHER, X[0]).meaning.residual

    @pytest.mark.parametrize(
        "multiplied",
        [lambda x: x * X[0, 0], lambda x: x * x, lambda x: x * x.mean()],
        ids=["a tensor", "itself", "a computed number"],
    )
    def test_a_multiplier_that_is_no_number(self, multiplied):
        region = self.only(lambda x, r, w: programs.llama_norm(r + multiplied(x), w), X, OTHER, X[0])
        assert region.meaning.residual and region.meaning.residual_multiplier == 1
        assert region.inputs["residual"].target is torch.ops.aten.mul.Tensor

    def test_a_product_that_others_read(self):
        def program(x, r, w):
            scaled = x * 0.22
            return programs.llama_norm(r + scaled, w), scaled.sin()

        assert self.only(program, X, OTHER, X[0]).meaning.residual_multiplier == 1

    def test_a_sum_in_fp32_that_nobody_rounds(self):
        """It is a plain sum, of two fp32 tensors."""

        def program(x, r, w):
            total = x.float() + r.float()
            return (w * (total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + EPS))).to(BF16)

        meaning = self.only(program, X, OTHER, X[0]).meaning
        assert meaning.residual and not meaning.unrounded_sum and meaning.x_dtype is FP32


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
        assert "several static scales are not read yet; one for all values fuses" in reason

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
        assert reason.endswith("a given factor, or none, is not read yet")

    def test_values_in_bf16(self):
        reason = refused(lambda x, s: bounded(x / s), X, torch.tensor(0.5))
        assert reason == "x is scaled in bf16; scaled in fp32, as x.float() / scale, it fuses"

    def test_int8_with_a_zero_point(self):
        def program(x, scale, zero):
            return ((x.float() / scale).round() + zero).clamp(-128, 127).to(INT8)

        reason = refused(program, X, self.scale, torch.tensor([3], dtype=INT8))
        assert reason.startswith("a zero point with a static scale is not read yet")


class TestGroups:
    def test_along_the_other_dimension(self):
        def program(x):
            groups = x.view(8, 2, 32)
            scale = groups.abs().amax(1, keepdim=True).float() / 448.0
            return bounded(groups.float() / scale), scale

        assert "the largest magnitude over the last dimension fuses" in refused(program, X)

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

        (region,) = reading_of(program, X).regions
        assert region.meaning.granularity is Granularity.GROUP
        assert region.meaning.scale_layout is ScaleLayout.ROW_MAJOR

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

        (region,) = reading_of(program, X).regions
        assert region.meaning.scale_layout is ScaleLayout.ROW_MAJOR


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

    def test_a_floor_before(self):
        reason = refused(self.program(lambda s: torch.exp2(torch.ceil(torch.log2(s.clamp(min=1e-6))))), X)
        assert reason.startswith("the floor is put under the scale before it becomes a power of two")


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


class TestInt8:
    def program(self, narrow):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True).float() / 127.0
            return narrow(x.float() / scale), scale

        return program

    def test_truncated(self):
        reason = refused(self.program(lambda v: v.clamp(-128, 127).to(INT8)), X)
        assert reason.endswith("is cast to int8 without rounding, which truncates; torch.round before fuses")

    def test_rounded_down(self):
        reason = refused(self.program(lambda v: v.floor().clamp(-128, 127).to(INT8)), X)
        assert reason == "the values are rounded by aten.floor.default (floor); torch.round, half to even, fuses"

    def test_bounds_between_whole_numbers(self):
        reason = refused(self.program(lambda v: v.clamp(-127.5, 127.5).round().to(INT8)), X)
        assert reason == "the values are clamped to [-127.5, 127.5]; whole bounds fuse"

    def test_clamped_twice(self):
        reason = refused(self.program(lambda v: v.clamp(-128, 127).round().clamp(-127, 127).to(INT8)), X)
        assert reason.startswith("expected one clamp before the cast to int8")

    def test_values_in_bf16(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True) / 127.0
            return whole(x / scale), scale.float()

        assert refused(program, X).startswith("x is scaled in bf16")

    def test_a_difference_of_magnitudes(self):
        def program(x):
            x32 = x.float()
            scale = torch.maximum(x32.amax(-1, keepdim=True), x32.amin(-1, keepdim=True)) / 127.0
            return whole(x32 / scale), scale

        assert "found aten.maximum.default (maximum) of a minimum" in refused(program, X)


class TestZeroPoint:
    def program(self, *, ends=None, zero=None, q=None, steps=255.0):
        def program(x):
            x32 = x.float()
            low, high = (ends or self.ends)(x32)
            scale = ((high - low) / steps).clamp_min(1e-7)
            point = (zero or self.zero)(low, high, scale)
            return (q or self.q)(x32, scale, point), scale, point

        return program

    def ends(self, x32):
        return x32.amin(-1, keepdim=True).clamp(max=0), x32.amax(-1, keepdim=True).clamp(min=0)

    def zero(self, low, high, scale):
        return (-128 - (low / scale).round()).clamp(-128, 127).to(INT8)

    def q(self, x32, scale, point):
        return ((x32 / scale).round() + point).clamp(-128, 127).to(INT8)

    def test_without_a_change_it_is_read(self):
        reading = reading_of(self.program(), X)
        assert [region.meaning.zero_point for region in reading.regions] == [True] and not reading.refusals

    def test_a_range_without_zero(self):
        def ends(x32):
            return x32.amin(-1, keepdim=True), x32.amax(-1, keepdim=True)

        assert refused(self.program(ends=ends), X).startswith("the range of x is taken without 0 in it")

    def test_from_the_upper_end(self):
        def zero(low, high, scale):
            return (-128 - (high / scale).round()).clamp(-128, 127).to(INT8)

        assert refused(self.program(zero=zero), X).startswith("expected min(x, 0) / scale, with the x and the scale")

    def test_not_added(self):
        reason = refused(self.program(q=lambda x32, scale, point: whole(x32 / scale)), X)
        assert reason == "the scale is that of a range, but no zero point is added; with one it fuses"

    def test_other_bounds(self):
        def zero(low, high, scale):
            return (-128 - (low / scale).round()).clamp(-127, 127).to(INT8)

        assert refused(self.program(zero=zero), X).startswith("the zero point is clamped to (-127.0, 127.0), but the values")

    def test_another_origin(self):
        def zero(low, high, scale):
            return (-127 - (low / scale).round()).clamp(-128, 127).to(INT8)

        assert refused(self.program(zero=zero), X).startswith("expected -128 - round(min(x, 0) / scale), found")

    def test_other_steps(self):
        assert refused(self.program(steps=254.0), X).startswith("the range is divided by 254, but the values are clamped to")

    def test_kept_in_fp32(self):
        def zero(low, high, scale):
            return (-128 - (low / scale).round()).clamp(-128, 127)

        assert refused(self.program(zero=zero), X).startswith("expected a zero point in int8, found")

    def test_added_to_the_values_of_a_symmetric_scale(self):
        def program(x, point):
            scale = x.abs().amax(-1, keepdim=True).float() / 127.0
            return self.q(x.float(), scale, point), scale

        reason = refused(program, X, torch.ones(8, 1, dtype=INT8))
        assert "is added to the rounded values, but the scale is that of a magnitude" in reason


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
