"""passes.spellings.quantize: how dynamic fp8 quantisation is written, and what it is then said to be."""

import programs
import pytest
import torch
from capture import capture
from programs import E4M3

from passes.meanings import Quantize, ScaleUse
from passes.reading import read
from passes.values import rounded

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
DIVIDE, MULTIPLY = ScaleUse.DIVIDE, ScaleUse.MULTIPLY_RECIPROCAL

# What each spelling says beyond dtypes; a scale dtype of None is that of x.
FORMS = {
    programs.torchao_quantize: dict(scale_dtype=None, use=DIVIDE, clamp=(-448.0, 448.0)),
    programs.vllm_quantize: dict(
        scale_dtype=FP32, use=MULTIPLY, clamp=(-448.0, 448.0), scale_floor=rounded(1 / (448 * 512), FP32)
    ),
    programs.plain_quantize: dict(scale_dtype=FP32, use=DIVIDE, clamp=None, amax_floor=1e-12),
    programs.flat_scale_quantize: dict(scale_dtype=FP32, use=DIVIDE, clamp=(-448.0, 448.0)),
    programs.tensor_bounds_quantize: dict(scale_dtype=FP32, use=MULTIPLY, clamp=(-448.0, 448.0), scale_floor=1e-6),
    programs.double_quantize: dict(scale_dtype=FP64, use=DIVIDE, clamp=(-448.0, 448.0), amax_floor=1e-12),
}


def refused(function, *args):
    """The reason why the one candidate in a function was not read."""
    reading = read(capture(function, *args).graph)
    assert not reading.regions
    (refusal,) = reading.refusals
    assert refusal.candidate == "quantize"
    assert refusal.location.file in (programs.__file__, __file__)
    return refusal.reason


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32])
@pytest.mark.parametrize("quantize", FORMS, ids=lambda quantize: quantize.__name__)
def test_every_form_is_read_once(quantize, dtype, dynamic):
    reading = read(capture(quantize, programs.tensor(3, 5, 64, dtype=dtype), dynamic=dynamic).graph)
    assert not reading.refusals, reading.refusals
    (region,) = reading.regions
    form = dict(FORMS[quantize])
    form["scale_dtype"] = form["scale_dtype"] or dtype
    assert region.meaning == Quantize(x_dtype=dtype, dtype=E4M3, qmax=448.0, **form)
    assert region.inputs["x"].op == "placeholder"
    assert {name: len(copies) for name, copies in region.outputs.items()} == {"q": 1, "scale": 1}


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

    (region,) = read(capture(program, programs.tensor(8, 64, dtype=dtype)).graph).regions
    if recorded is None:
        assert region.meaning.amax_floor is None
    else:
        assert torch.tensor(region.meaning.amax_floor, dtype=FP32) == torch.tensor(recorded, dtype=FP32)
        assert torch.tensor(region.meaning.amax_floor, dtype=FP32) == torch.tensor(floor, dtype=dtype).float()


def test_a_scale_converted_twice_has_two_copies():
    def program(x, b, b_scale):
        scale = x.abs().amax(-1, keepdim=True) / 448.0
        q = (x.float() / scale.float()).clamp(-448, 448).to(E4M3)
        return programs.matmul(q, scale.float(), b, b_scale)

    reading = read(capture(program, programs.tensor(16, 64), *programs.weights()).graph)
    assert not reading.refusals
    assert len(reading.regions[0].outputs["scale"]) == 2


def test_views_of_x_that_are_equal_are_one_x():
    def program(x):
        scale = x.reshape(-1, 64).abs().amax(-1, keepdim=True).float() / 448.0
        return (x.reshape(-1, 64).float() / scale).clamp(-448, 448).to(E4M3), scale

    reading = read(capture(program, programs.tensor(4, 8, 64)).graph)
    assert not reading.refusals and len(reading.regions) == 1


def test_equal_quantisers_are_one_region():
    def program(x):
        return [programs.torchao_quantize(x) for _ in range(3)], programs.vllm_quantize(x)

    regions = read(capture(program, programs.tensor(8, 64)).graph).regions
    assert [(region.merged, len(region.outputs["q"]), len(region.outputs["scale"])) for region in regions] == [
        (3, 3, 3),
        (1, 1, 1),
    ]


def test_other_casts_are_no_candidates():
    def program(x):
        return x.float(), x.to(torch.int8), x.to(torch.int32)

    reading = read(capture(program, programs.tensor(8, 64)).graph)
    assert not reading.regions and not reading.refusals


class TestRefused:
    x = programs.tensor(8, 64)

    def test_one_scale_a_tensor(self):
        def program(x):
            scale = x.abs().amax().float() / 448.0
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale

        assert refused(program, self.x).startswith("one scale a tensor is not read yet; one scale a token, amax over")

        def by_max(x):
            scale = x.abs().max().float() / 448.0
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale

        assert refused(by_max, self.x).startswith("one scale a tensor is not read yet")

    def test_one_scale_a_group(self):
        def program(x):
            groups = x.reshape(-1, 2, 32)
            scale = groups.abs().amax(-1, keepdim=True).float() / 448.0
            return (groups.float() / scale).clamp(-448, 448).to(E4M3).reshape(-1, 64), scale

        assert refused(program, self.x) == ("one scale a group of 32 of 64 values is not read yet; one scale a token fuses")

    def test_one_scale_a_column(self):
        def program(x):
            scale = x.abs().amax(0, keepdim=True).float() / 448.0
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale

        assert refused(program, self.x).startswith("the largest magnitude over the last dimension fuses, found aten.amax")

    def test_a_row_scale_that_divides_columns(self):
        def program(x):
            scale = x.abs().amax(-1).float() / 448.0
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale

        assert "expected the scale of shape [64, 1], one number a row" in refused(program, programs.tensor(64, 64))

    def test_a_static_scale(self):
        def program(x, scale):
            return (x.float() / scale).clamp(-448, 448).to(E4M3)

        reason = refused(program, self.x, torch.tensor(0.5))
        assert reason.startswith("the scale comes from the graph input arg1_1: static scales are not read yet")

    def test_a_static_reciprocal(self):
        def program(x, factor):
            return (x.float() * factor).clamp(-448, 448).to(E4M3)

        assert "a static scale, or none, is not read yet" in refused(program, self.x, torch.tensor(2.0))

    def test_no_scale(self):
        def program(x):
            return x.clamp(-448, 448).to(E4M3)

        assert refused(program, self.x).startswith("expected x / scale or x * (1 / scale) (")

    def test_int8(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True).float() / 127.0
            return (x.float() / scale).round().clamp(-128, 127).to(torch.int8), scale

        assert refused(program, self.x) == "quantisation to int8 is not read yet; fp8 fuses"

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

    def test_multiplication_by_the_reciprocal_of_qmax(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True).float() * (1 / 448.0)
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale

        assert refused(program, self.x).endswith("a multiplication by 1 / qmax rounds differently")

    def test_multiplication_by_qmax_over_amax(self):
        def program(x):
            factor = 448.0 / x.abs().amax(-1, keepdim=True).float()
            return (x.float() * factor).clamp(-448, 448).to(E4M3), factor

        assert refused(program, self.x).endswith("qmax / amax rounds differently")

    def test_one_sided_clamp(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True).float() / 448.0
            return (x.float() / scale).clamp(max=448).to(E4M3), scale

        assert "clamped to [None, 448.0]" in refused(program, self.x)

    def test_clamp_and_scale_that_disagree(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True).float() / 448.0
            return (x.float() / scale).clamp(-240, 240).to(E4M3), scale

        assert refused(program, self.x) == (
            "the values are clamped to ±240, but the scale is amax / 448; one bound for both fuses"
        )

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
            scale = torch.exp2((x.abs().amax(-1, keepdim=True).float() / 448.0).log2().ceil())
            return (x.float() / scale).clamp(-448, 448).to(E4M3), scale

        assert refused(program, self.x) == ("expected the scale, max |x| / qmax, found aten.exp2.default (exp2) in it")

    def test_the_low_precision_scale_read_elsewhere(self):
        def program(x):
            scale = x.abs().amax(-1, keepdim=True) / 448.0
            return (x.float() / scale.float()).clamp(-448, 448).to(E4M3), scale

        reason = refused(program, self.x)
        assert reason.startswith("aten.div.Tensor (div), an intermediate value, is also read by output")
