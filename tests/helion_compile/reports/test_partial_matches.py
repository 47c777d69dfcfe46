# SPDX-License-Identifier: Apache-2.0
"""A planted partial match of each kind: the report tells what was found, what would fuse, and how near it came.

The reasons of a pattern or a fusion are tested beside it; here is one of each form, from torch code to the printed text.
"""

import re

import pytest
import torch

from helion_compile import explain

FP8 = torch.float8_e4m3fn
X, Y = torch.randn(16, 64).bfloat16(), torch.randn(16, 64).bfloat16()
WEIGHT = torch.randn(64).bfloat16()


def amax(x):
    return x.abs().amax(-1, keepdim=True)


def quantize(x, scale=None):
    scale = (amax(x) / 448.0).float() if scale is None else scale
    return (x.float() / scale).clamp(-448.0, 448.0).to(FP8), scale


def norm(x, weight=WEIGHT, eps=1e-6):
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def bytes_read_by_topk(x):
    q, scale = quantize(x)
    return q, scale, torch.topk(q.view(torch.uint8), 2)


def norm_and_bytes_read(x):
    q, scale = quantize(norm(x))
    return q, scale, q.float().sum()


def bytes_returned_as_numbers(x):
    q, scale = quantize(x)
    return q, scale, q.float()


def inside_read(x):
    magnitude = amax(x)
    q, scale = quantize(x, (magnitude / 448.0).float())
    return q, scale, magnitude


def norms_inside_read(x):
    x32 = x.float()
    rstd = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)
    return quantize(WEIGHT * (x32 * rstd).to(x.dtype)), rstd


def scaled_in_bf16(x):
    return (x / (amax(x) / 448.0)).to(FP8)


def another_scale(x):
    return quantize(x, (amax(x + 1) / 448.0).float())


def rounded_before_the_cast(x):
    scale = (amax(x) / 448.0).float()
    return (x.float() / scale).bfloat16().clamp(-448.0, 448.0).to(FP8), scale


def columns(x):
    return quantize(x.t())


def mean_of_columns(x):
    x32 = x.float()
    return quantize((x32 * torch.rsqrt(x32.pow(2).mean(0, keepdim=True) + 1e-6)).bfloat16())


def square_of_something_else(x):
    x32 = x.float()
    return quantize((x32 * torch.rsqrt((x32 * x32.sin()).mean(-1, keepdim=True) + 1e-6)).bfloat16())


WITHOUT = "without that reader it fuses"
# program -> candidate, what is found, what would fuse, steps matched and all steps
PLANTED = {
    bytes_read_by_topk: ("quant", "also read by aten.topk.default at ", "only matmuls", None),
    norm_and_bytes_read: ("norm_quant", "also read by aten.sum.default at ", "only matmuls", (11, 13)),
    bytes_returned_as_numbers: ("quant", "also read by prims.convert_element_type.default at ", "only matmuls", None),
    inside_read: (
        "quantize",
        "(amax), an intermediate value, is also read by output (output)",
        "without that reader it fuses",
        (5, 6),
    ),
    norms_inside_read: (
        "norm",
        "(rsqrt), an intermediate value, is also read by output (output)",
        "without that reader it fuses",
        (4, 5),
    ),
    scaled_in_bf16: ("quantize", "x is scaled in bf16", "scaled in fp32", None),
    another_scale: ("quantize", "the scale is taken from aten.add.Tensor (add)", "largest magnitude of the same x", (5, 6)),
    rounded_before_the_cast: ("quantize", "rounded to bf16 before the cast to fp8", "cast from fp32", None),
    columns: ("quant", "the last dimension of x is not contiguous", "", (6, 8)),
    mean_of_columns: ("norm", "aten.mean.dim (mean) over [0] of 2", "over the last dimension", (3, 5)),
    square_of_something_else: ("norm", "aten.mul.Tensor (mul) of ", "the square of x", (3, 5)),
}


@pytest.mark.parametrize("program", PLANTED, ids=lambda program: program.__name__)
def test_a_planted_near_miss(program):
    candidate, found, remedy, near = PLANTED[program]
    report = explain(program, X)
    refusal = next(refusal for refusal in report.refusals if refusal.candidate == candidate)
    assert found in refusal.found and remedy in refusal.remedy
    assert near is None or (len(refusal.matched), len(refusal.matched) + len(refusal.missing)) == near
    assert refusal.location.file == __file__
    lines = open(__file__).read().splitlines()
    start = next(number for number, line in enumerate(lines, 1) if line.startswith(f"def {program.__name__}("))
    inside = range(start, start + 9)
    helpers = range(1, next(number for number, line in enumerate(lines, 1) if line.startswith("def bytes_read_by_topk")))
    assert refusal.location.line in inside or refusal.location.line in helpers
    text = " ".join(str(report).split())
    assert f"refused: {candidate} in the function itself" in text
    assert f"near {refusal.near}, missing: " in text
    assert f"found {' '.join(refusal.found.split())}" in text
    if refusal.remedy:
        assert f"fuses {' '.join(refusal.remedy.split())}" in text


def test_an_eps_that_is_known_at_run_time_only():
    class Norm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.eps = torch.tensor(1e-6)

        def forward(self, x):
            return quantize(norm(x, eps=self.eps.float()))

    refusal = next(each for each in explain(Norm(), X).refusals if each.candidate == "norm")
    assert refusal.found.startswith("eps is known at run time only") and refusal.remedy.startswith("an eps that is a constant")
    assert {"plus eps", "its rsqrt"} <= set(refusal.matched) and "x times that" in refusal.missing


def test_nothing_fused_has_a_cause_and_an_inventory():
    text = " ".join(str(explain(scaled_in_bf16, X)).split())
    assert "Every candidate was refused, 1 of 1 as this one: x is scaled in bf16" in text
    assert re.search(r"quantize-like: 1 x cast to fp8 e4m3, first at \S*test_partial_matches.py:\d+", text)


def test_weights_alone_are_quantised():
    weight = torch.randn(64, 64).to(FP8)
    text = " ".join(str(explain(lambda x: x @ weight.to(x.dtype), X)).split())
    assert "only of weights: they are converted back before the product" in text
    assert "matmul-like: 1 x aten.mm.default of bf16" in text


def test_a_norm_that_feeds_no_quantiser():
    text = " ".join(str(explain(norm, X)).split())
    assert "unfused: RMSNorm in the function itself" in text and "whoever called the graph" in text
    assert "1 x RMSNorm unfused, the first of them because: the result is read by" in text
