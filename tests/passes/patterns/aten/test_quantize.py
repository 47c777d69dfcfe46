# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.aten.quantize: beyond the table of patterns, what else matters to reading a quantiser, and what is none."""

import functools

import pytest
import torch

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Granularity
from tests.support import checks, programs
from tests.support.capture import capture
from tests.support.corpus import quantisers
from tests.support.programs import E4M3

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


refused = functools.partial(checks.refused, "quantize")


@pytest.mark.parametrize("quantize", [quantisers.torchao_row, quantisers.vllm_token, programs.flat_scale_quantize])
def test_a_hidden_size_that_is_symbolic(quantize):
    matched = match_graph(capture(quantize, programs.tensor(3, 5, 64), dynamic=True).graph)
    assert not matched.refusals, matched.refusals
    (match,) = matched.matches
    assert match.op.granularity is Granularity.TOKEN and match.inputs["x"].op == "placeholder"
    assert {name: len(copies) for name, copies in match.outputs.items()} == {"q": 1, "scale": 1}


@pytest.mark.parametrize(
    ("floor", "dtype", "recorded"),
    [
        (1e-12, FP16, None),  # rounds to 0 in fp16, and no magnitude is below 0
        (1e-12, BF16, 1.0018652574217413e-12),
        (1e-12, FP32, 1e-12),
    ],
)
def test_a_floor_is_recorded_as_its_dtype_rounds_it(floor, dtype, recorded):
    def program(x):
        scale = (x.abs().amax(-1, keepdim=True).clamp(min=floor) / 448.0).float()
        return (x.float() / scale).to(E4M3), scale

    (match,) = match_graph(capture(program, programs.tensor(8, 64, dtype=dtype)).graph).matches
    if recorded is None:
        assert match.op.amax_floor is None
    else:
        assert torch.tensor(match.op.amax_floor, dtype=FP32) == torch.tensor(recorded, dtype=FP32)
        assert torch.tensor(match.op.amax_floor, dtype=FP32) == torch.tensor(floor, dtype=dtype).float()


def test_a_scale_converted_twice_has_two_copies():
    def program(x, b, b_scale):
        scale = x.abs().amax(-1, keepdim=True) / 448.0
        q = (x.float() / scale.float()).clamp(-448, 448).to(E4M3)
        return programs.matmul(q, scale.float(), b, b_scale)

    matched = match_graph(capture(program, programs.tensor(16, 64), *programs.weights()).graph)
    assert not matched.refusals
    assert len(matched.matches[0].outputs["scale"]) == 2


def test_views_of_x_that_are_equal_are_one_x():
    def program(x):
        scale = x.reshape(-1, 64).abs().amax(-1, keepdim=True).float() / 448.0
        return (x.reshape(-1, 64).float() / scale).clamp(-448, 448).to(E4M3), scale

    matched = match_graph(capture(program, programs.tensor(4, 8, 64)).graph)
    assert not matched.refusals and len(matched.matches) == 1


def test_equal_quantisers_are_one_region():
    def program(x):
        return [quantisers.torchao_row(x) for _ in range(3)], quantisers.vllm_token(x)

    matches = match_graph(capture(program, programs.tensor(8, 64)).graph).matches
    assert [(match.merged, len(match.outputs["q"]), len(match.outputs["scale"])) for match in matches] == [
        (3, 3, 3),
        (1, 1, 1),
    ]


def test_other_casts_are_no_candidates():
    def program(x):
        return x.float(), x.to(torch.int8), x.to(torch.int32)

    matched = match_graph(capture(program, programs.tensor(8, 64)).graph)
    assert not matched.matches and not matched.refusals


class TestRefused:
    x = programs.tensor(8, 64)

    def test_one_scale_a_column(self):
        def program(x):
            scale = x.abs().amax(0, keepdim=True).float() / 448.0
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale

        assert refused(program, self.x).startswith("expected the largest magnitude over the last dimension, found aten.amax")

    def test_a_row_scale_that_divides_columns(self):
        def program(x):
            scale = x.abs().amax(-1).float() / 448.0
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale

        assert "expected the scale of shape [64, 1], one number a row" in refused(program, programs.tensor(64, 64))

    def test_several_static_scales(self):
        def program(x, scale):
            return (x.float() / scale).clamp(-448, 448).to(E4M3)

        reason = refused(program, self.x, torch.full((64,), 0.5))
        assert reason == (
            "the scale comes from the graph input arg1_1 of shape [64], and several static scales are in no pattern yet; "
            "one for all values fuses"
        )

    def test_a_given_factor(self):
        def program(x, factor):
            return (x.float() * factor).clamp(-448, 448).to(E4M3)

        assert "a given factor, or none, is in no pattern yet" in refused(program, self.x, torch.tensor(2.0))

    def test_no_scale(self):
        def program(x):
            return x.clamp(-448, 448).to(E4M3)

        assert refused(program, self.x).startswith("expected x / scale or x * (1 / scale) (")

    def test_division_in_bf16(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True) / 448.0
            return (x / scale).float().clamp(-448, 448).to(E4M3), scale.float()

        assert refused(program, self.x) == ("x is scaled in bf16; scaled in fp32, as x.float() / scale, it fuses")

    def test_a_rounding_before_the_cast(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True).float() / 448.0
            return (x.float() / scale).clamp(-448, 448).to(BF16).to(E4M3), scale

        assert "rounded to bf16 before the cast to fp8" in refused(program, self.x)

    def test_multiplication_by_qmax_over_amax(self):
        def program(x):
            factor = 448.0 / x.abs().amax(-1, keepdim=True).float()
            return (x.float() * factor).clamp(-448, 448).to(E4M3), factor

        assert "qmax / amax, of which nobody computes a scale" in refused(program, self.x)

    def test_one_sided_clamp(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True).float() / 448.0
            return (x.float() / scale).clamp(max=448).to(E4M3), scale

        assert "clamped to [None, 448]; a clamp on both sides fuses" in refused(program, self.x)

    def test_a_scale_of_another_tensor(self):
        def program(x, other):
            scale = other.abs().amax(-1, keepdim=True).float() / 448.0
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale

        assert refused(program, self.x, programs.tensor(8, 64, seed=1)).startswith(
            "the scale is taken from the graph input arg0_1, but the graph input arg1_1 is scaled with it"
        )

    def test_a_scale_rounded_late(self):
        def program(x):
            low = (x.float().abs().amax(-1, keepdim=True) / 448.0).to(BF16)
            scale = low.float()
            # Read twice, or torch 2.11 drops the rounding of what is cast back and forth.
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale, low

        assert refused(program, self.x).startswith(
            "the scale is rounded to bf16 after a division in fp32; divided in that dtype"
        )

    def test_a_magnitude_rounded_early(self):
        def program(x):
            low = x.abs().amax(-1, keepdim=True).to(BF16)
            scale = low.float() / 448.0
            return (x / scale).clamp(-448, 448).to(E4M3), scale, low

        assert refused(program, programs.tensor(8, 64, dtype=FP32)) == (
            "the largest magnitude of fp32 values is rounded to bf16; kept in fp32 it fuses"
        )

    def test_an_unknown_step_in_the_scale(self):
        def program(x):
            scale = torch.sqrt(x.abs().amax(-1, keepdim=True).float() / 448.0)
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale

        assert refused(program, self.x) == ("expected the scale, max |x| / qmax, found aten.sqrt.default (sqrt) in it")

    def test_the_low_precision_scale_read_elsewhere(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True) / 448.0
            return (x.float() / scale.float()).clamp(-448, 448).to(E4M3), scale

        reason = refused(program, self.x)
        assert reason.startswith("aten.div.Tensor (div), an intermediate value, is also read by output")
