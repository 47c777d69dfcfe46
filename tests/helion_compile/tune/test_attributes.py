# SPDX-License-Identifier: Apache-2.0
"""Representative attributes compile for a GPU that is not there, in seconds and without spills.

``tests/helion_compile/tune/test_shipped.py`` does the same for what the tables hold.
"""

import os

import pytest

from helion_compile.configs.case import Case
from helion_compile.kernels import activation_quant, norm_quant, quant
from helion_compile.tune.candidates import Space
from helion_compile.tune.compiling import Target
from helion_compile.tune.pool import CompilePool
from tests.support.corpus.kernel_norms import NORMS
from tests.support.corpus.kernel_quantisers import QUANTISERS

H200 = Target(90, 132)
BASE = {"dtype": "bf16", "num_tokens": 2048}
CASES = [
    *((norm_quant, {"residual": residual, **facts}) for residual in (False, True) for facts in ({}, {"group": 128})),
    (norm_quant, {"residual": True, "kind": "layer"}),
    (norm_quant, {"residual": False, "static": True}),
    *((quant, facts) for facts in ({}, {"group": 64}, {"static": True})),
    *((activation_quant, {"gated": True, **facts}) for facts in ({"group": 128}, {"static": True})),
]


def configs(kernel, case):
    default = kernel.configs.default(case)
    return [default, {**default, "block_sizes": [8, 1]}] if kernel is norm_quant else [default]


def test_cases_compile_without_spills(tmp_path):
    pool = CompilePool(min(4, os.cpu_count() or 1), ("helion_compile.kernels",), H200, {"TRITON_CACHE_DIR": str(tmp_path)})
    try:
        cases = [(kernel, Case(hidden_size=5120, **BASE, **facts)) for kernel, facts in CASES]
        asked = [(kernel, case, config) for kernel, case in cases for config in configs(kernel, case)]
        done = [(*each, pool.submit(each[0].name, *each[1:])) for each in asked]
        for kernel, case, config, future in done:
            compiled = future.result(timeout=250)
            assert not compiled.error, f"{kernel.name} ({case}) {config}: {compiled.error}"
            # A block of rows of groups holds a scale too: two registers of 64 are kept in memory.
            assert compiled.spills <= 16, f"{kernel.name} ({case}) {config}: {compiled.spills} bytes of spills"
    finally:
        pool.stop()


@pytest.mark.parametrize("facts", [{"static": True}, {"group": 128}], ids=["static", "group"])
def test_where_no_element_needs_its_row_tiles_of_a_part_of_it_are_tried(facts):
    case = Case(hidden_size=12288, gated=True, **BASE, **facts)
    space = Space(activation_quant, case)
    seeds = space.seeds([activation_quant.configs.default(case)])
    per_column = facts.get("group", 1)
    sizes = {config["block_sizes"][0] * config["block_sizes"][1] * per_column for config in seeds}
    assert {256, 512, 1024, 2048, 4096, 8192} <= sizes
    assert all(space.fits(config) for config in seeds)
    assert not space.fits({**seeds[0], "block_sizes": [64, 8192 // per_column], "num_warps": 1})


@pytest.mark.parametrize("name", QUANTISERS)
def test_every_quantiser_has_a_case_that_can_be_tuned(name):
    import torch

    quantiser = QUANTISERS[name]
    x = torch.empty(16, 4096, dtype=torch.bfloat16)
    arguments = quantiser.arguments(x.dtype, quantiser.number("cpu"))
    for kernel, args in (
        (quant, (x, *arguments, False)),
        (
            norm_quant,
            (x, None, None, None, *arguments[:2], 1e-6, NORMS["layer"].text(x.dtype), arguments[2], False, False),
        ),
    ):
        case = kernel.case(*args)
        assert kernel.case(*kernel.tuning.inputs(case, torch.device("meta"))) == case


def test_no_config_of_the_longest_rows_takes_a_compiler_minutes(tmp_path):
    """With one or two warps a thread would hold 512 and more elements: 68 and 14 s, and all of them spilled."""
    case = Case(hidden_size=28672, gated=True, **BASE)
    space = Space(activation_quant, case)
    seeds = space.seeds([activation_quant.configs.default(case)])
    near = [config for seed in seeds for _, config in space.steps(seed)]
    unrolled = [config for config in [*seeds, *near] if not any(config["reduction_loops"])]
    assert {config["num_warps"] for config in unrolled} == {4, 8, 16, 32}
    assert all(config["block_sizes"][0] * 32768 <= 256 * 32 * config["num_warps"] for config in unrolled)
    pool = CompilePool(1, ("helion_compile.kernels",), H200, {"TRITON_CACHE_DIR": str(tmp_path)})
    try:
        chosen = [{**activation_quant.configs.default(case), "num_warps": warps} for warps in (16, 32)]
        for compiled in [pool.submit("activation_quant", case, config) for config in chosen]:
            done = compiled.result(timeout=250)
            assert not done.error and not done.spills
    finally:
        pool.stop()
