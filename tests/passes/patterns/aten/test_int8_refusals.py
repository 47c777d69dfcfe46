# SPDX-License-Identifier: Apache-2.0
"""Graphs that differ from a quantiser to int8 in one operation: left alone, and the reason says why."""

import functools

import torch

from helion_compile.passes.match.matched_graph import match_graph
from tests.support import checks, programs
from tests.support.capture import capture

INT8 = torch.int8
X = programs.tensor(8, 64)

refused = functools.partial(checks.refused, "quantize")


def whole(values):
    return values.round().clamp(-128, 127).to(INT8)


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
        matched = match_graph(capture(self.program(), X).graph)
        assert [match.op.zero_point for match in matched.matches] == [True] and not matched.refusals

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

        assert refused(self.program(zero=zero), X).startswith("the zero point is clamped to [-127, 127], but the values")

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
