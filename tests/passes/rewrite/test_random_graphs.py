# SPDX-License-Identifier: Apache-2.0
"""Graphs put together at random from the corpus: replaced by what they were read as, they keep their bits."""

import copy

import pytest
import torch
from hypothesis import assume, given, settings

from helion_compile.passes.rewrite.fusion_pass import FusionPass
from tests.support import stubs
from tests.support.capture import runnable
from tests.support.checks import assert_same_bits
from tests.support.needs import row_wise_products
from tests.support.random_programs import SETTINGS, arguments, random_programs, traced

FUSIONS = (stubs.NORM_QUANTIZE, stubs.QUANTIZE, stubs.NORM)


def check(program):
    # A library's own sum has another order than the interpretation of what it was read as.
    assume(all(row.exact for row in program.norms))
    args = arguments(program)
    before = traced(program, args)
    after = copy.deepcopy(before)
    FusionPass(FUSIONS, strict=True)(after.graph)
    after.recompile()
    with torch.no_grad():
        found, expected = runnable(after)(*args), runnable(before)(*args)
    assert [value.dtype for value in found] == [value.dtype for value in expected]
    assert_same_bits(with_one_nan(found), with_one_nan(expected))


def with_one_nan(values):
    """In fp32, which holds them all, without the signs and payloads of NaNs: a row of zeros has 0 / 0, which promises none."""
    return [torch.where(value.float().isnan(), torch.nan, value.float()) for value in values]


@row_wise_products
@settings(max_examples=25, derandomize=True, **SETTINGS)
@given(random_programs(stages=2))
def test_a_few_graphs(program):
    check(program)


@row_wise_products
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(8))
def test_many_graphs(part):
    @settings(max_examples=250, **SETTINGS)
    @given(random_programs(stages=3))
    def run(program):
        check(program)

    run()
