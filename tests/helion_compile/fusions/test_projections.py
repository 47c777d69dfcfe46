# SPDX-License-Identifier: Apache-2.0
"""q, k and v that each take their own copy of one value: one call of a kernel, which writes what somebody reads, no more.

A linear for fp8 flattens its input, and most models have three of them behind a norm and two behind the next.
"""

import pytest
import torch
from torch.nn.functional import layer_norm, rms_norm, silu

from helion_compile.frontend.capture import make_inspecting_backend
from tests.support.fusing import E4M3, assert_bit_equal, fused, randn, run

K = 128
ARGS = randn(2, 7, K), randn(2, 7, K, seed=1), randn(K, seed=2)
FRONTS = {
    "norm": lambda x, other, weight: layer_norm(x, (K,), weight),
    "sum and norm": lambda x, other, weight: rms_norm(x + other, (K,), weight, 1e-6),
    "activation": lambda x, other, weight: silu(x) * other,
}


def by_row(y):
    scale = (y.abs().amax(-1, keepdim=True).float() / 448).clamp(min=1e-12)
    return (y.float() / scale).clamp(-448, 448).to(E4M3), scale


def to_int8(y):
    scale = (y.abs().amax(-1, keepdim=True).float() / 127).clamp(min=1e-7)
    return (y.float() / scale).round().clamp(-128, 127).to(torch.int8), scale


def by_group(y):
    groups = y.view(*y.shape[:-1], 2, 64)
    scale = (groups.abs().amax(-1, keepdim=True).float() / 448).clamp(min=1e-10)
    return (groups.float() / scale).clamp(-448, 448).to(E4M3).view_as(y), scale


COPIES = {
    "view": lambda y, index: y.view(-1, K),
    "flatten": lambda y, index: y.flatten(0, 1),
    "of each another shape": lambda y, index: (y, y.view(-1, K), y.unsqueeze(0))[index],
    "one clone": lambda y, index: y.view(-1, K).clone() if index else y,
    "clones": lambda y, index: y.clone(),
    "cast, then view": lambda y, index: y.float().view(-1, K),
}
CASES = [
    ("norm", by_row, "view"),
    ("sum and norm", to_int8, "view"),
    ("activation", by_group, "view"),
    ("norm", by_row, "flatten"),
    ("activation", to_int8, "of each another shape"),
    ("sum and norm", by_group, "of each another shape"),
    ("norm", by_group, "one clone"),
    ("sum and norm", by_row, "clones"),
    ("norm", by_row, "cast, then view"),
    ("activation", by_group, "cast, then view"),
]


@pytest.mark.parametrize(
    ("front", "quantize", "copy", "read_elsewhere"),
    [*((*case, False) for case in CASES), *((*case, True) for case in CASES[:3])],
)
def test_one_call_writes_what_is_read(front, quantize, copy, read_elsewhere):
    """``read_elsewhere``: as a LoRA branch reads what the linear beside it quantises."""

    def projections(x, other, weight):
        y = FRONTS[front](x, other, weight)
        results = [part for index in range(3) for part in quantize(COPIES[copy](y, index))]
        return [*results, y.view(-1, K) @ weight.view(K, 1)] if read_elsewhere else results

    results, record = run(projections, *ARGS, numerics="exact")
    (site,) = record.sites
    assert site.merged == 3 and ("out" in site.shapes) == read_elsewhere
    assert_bit_equal(results, run(projections, *ARGS, only=[])[0])


def test_a_copy_that_a_branch_reads_keeps_the_norm():
    """The branch reads the second linear's own view, which stays then, and what it shows with it."""

    def projections(x, other, weight):
        first, second = (FRONTS["norm"](x, other, weight).view(-1, K) for _ in range(2))
        return *by_row(first), *by_row(second), second @ weight.view(K, 1)

    results, record = run(projections, *ARGS, numerics="exact")
    (site,) = record.sites
    assert site.merged == 2 and "out" in site.shapes
    assert_bit_equal(results, run(projections, *ARGS, only=[])[0])


def test_verify_runs_what_copies_replaced():
    def projections(x, other, weight):
        y = FRONTS["sum and norm"](x, other, weight)
        return *by_row(y.clone().view(-1, K)), *by_row(y.float().view(-1, K)), *by_row(y)

    found = []
    torch.compile(projections, backend=make_inspecting_backend(found, options={"strict": True, "verify": True}))(*ARGS)
    assert fused(found[0].record) == ["norm_quant"]


@pytest.mark.parametrize("copy", ["view", "of each another shape"])
def test_with_sizes_that_are_dynamic(copy):
    """In one shape copies are one call; in several, whose sizes may be known nowhere else, each is right."""

    def projections(x, other, weight):
        y = FRONTS["norm"](x, other, weight)
        return [part for index in range(3) for part in by_row(COPIES[copy](y, index))]

    x, other, weight = (tensor.clone() for tensor in ARGS)
    for tensor in (x, other):
        for dim in (0, 1):
            torch._dynamo.mark_dynamic(tensor, dim)
    results, record = run(projections, x, other, weight, dynamic=None, numerics="exact")
    assert fused(record)[0] == "norm_quant" and (copy != "view" or [site.merged for site in record.sites] == [3])
    assert_bit_equal(results, run(projections, *ARGS, only=[])[0])


def test_a_copy_of_what_is_overwritten_is_another_value():
    def function(x, other, weight):
        before = by_row(x.clone())
        x.mul_(2)
        return *before, *by_row(x)

    args = [tensor.clone() for tensor in ARGS]
    expected = function(*(tensor.clone() for tensor in ARGS))
    results, _ = run(function, *args, numerics="exact")
    assert_bit_equal(results, expected)
