# SPDX-License-Identifier: Apache-2.0
"""Graphs put together at random: what the fusions make of them keeps the contract, site by site, and in ``exact`` every bit.

On a CPU, where a kernel is its reference; tests/gpu/kernels shows that the kernels are their references.
"""

import collections
import copy
import logging

import pytest
import torch
from hypothesis import given, settings

from helion_compile.frontend.options import Options
from helion_compile.passes.semantics import NormKind
from helion_compile.verify import run_verified
from tests.support.capture import runnable
from tests.support.fusing import assert_bit_equal
from tests.support.needs import row_wise_products
from tests.support.random_programs import SETTINGS, arguments, random_programs, traced

log = logging.getLogger("helion_compile.random_graphs")


# LayerNorms that are not summed as torch.var_mean does.
TWO_SUMS = {"cohere", "deberta", "by_var"}


def summed_as_by_its_reference(row):
    return str(row) not in TWO_SUMS if row.op(torch.float32).kind is NormKind.LAYER else row.exact


def check(program):
    """Fuse the program in both numerics and compare; how often each fusion was made."""
    args = arguments(program)
    module = traced(program, args)
    with torch.no_grad():
        expected = runnable(module)(*args)
    fused = collections.Counter()
    for numerics in ("default", "exact"):
        after = copy.deepcopy(module)
        fusion_pass = Options(numerics=numerics, strict=True).fusion_pass(log, keep_code=False, keep_originals=True)
        fusion_pass(after.graph)
        after.recompile()
        (record,) = fusion_pass.records
        results, compared = run_verified(ran := runnable(after), {ran: record}, args, numerics)
        broken = {node: [each.broken for each in found if each.broken] for node, found in compared[ran].items()}
        assert not any(broken.values()), broken
        if numerics == "exact" and all(map(summed_as_by_its_reference, program.norms)):
            assert_bit_equal(results, expected)
        fused.update((site.fusion, numerics) for site in record.sites)
    return fused


def run(graphs, stages, **more):
    fused = collections.Counter()

    @settings(max_examples=graphs, **more, **SETTINGS)
    @given(random_programs(stages))
    def run_one(program):
        fused.update(check(program))

    run_one()
    return fused


@row_wise_products
def test_a_few_graphs():
    fused = run(100, stages=2, derandomize=True)
    # Graphs in which nothing is fused would show nothing.
    assert {name for name, _ in fused} >= {"norm_quant", "activation_quant", "quant"} and fused.total() > 50


@row_wise_products
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(8))
def test_many_graphs(part):
    # Each time other graphs; a failure prints the program, of which the graph can be made again.
    fused = run(250, stages=3)
    # Hypothesis varies what it has, so a part may be without an embedding, but not without most fusions.
    assert len({name for name, _ in fused}) >= 3 and fused.total() > 100
