# SPDX-License-Identifier: Apache-2.0
"""The shipped tables: every row compiles for its GPU, on a machine without one, and spills no more than the tuner saw.

A sample that differs from day to day; ``pytest --all`` takes every row (half a second each, a core).
"""

import datetime
import json
import os
import random

import pytest

from helion_compile.configs.case import Case
from helion_compile.configs.files import shipped_folder, table_files
from helion_compile.configs.gpu import Gpu
from helion_compile.definitions import registry
from helion_compile.fusions.profitability import beaten_by_inductor
from helion_compile.tune.compiling import SHIPPED_TARGETS
from helion_compile.tune.pool import CompilePool

SAMPLE = 8


def shipped():
    for folder in sorted(path for path in shipped_folder().glob("*") if path.is_dir()):
        for file in table_files([shipped_folder()], folder.name):
            yield folder.name, file


@pytest.fixture(scope="module")
def rows(request):
    every = [(name, file.gpu, row) for name, file in shipped() for row in file.rows if "fallback" not in row.config]
    if request.config.getoption("--all"):
        return every
    return random.Random(datetime.date.today().toordinal()).sample(every, min(SAMPLE, len(every)))


def test_rows_compile_without_a_gpu_and_spill_no_more_than_recorded(rows, tmp_path):
    environment = {"TRITON_CACHE_DIR": str(tmp_path)}
    pools = {
        gpu: CompilePool(min(4, os.cpu_count() or 1), ("helion_compile.kernels",), SHIPPED_TARGETS[gpu], environment)
        for gpu in {gpu for _, gpu, _ in rows}
    }
    try:
        done = [(name, row, pools[gpu].submit(name, row.case, row.config)) for name, gpu, row in rows]
        bad = []
        for name, row, future in done:
            compiled = future.result(timeout=250)
            allowed = row.made_with["spills"]
            if compiled.error or compiled.spills > allowed:
                bad.append(
                    f"{name} ({row.case}): {compiled.error or f'{compiled.spills} bytes of spills, {allowed} recorded'}"
                )
        assert not bad, "\n".join(bad)
    finally:
        for pool in pools.values():
            pool.stop()


def test_tables_are_sound_and_of_these_kernels():
    tables = list(shipped())
    assert {name for name, _ in tables} == {"activation_quant", "quant", "norm_quant", "scaled_mm"}
    for name, file in tables:
        kernel = registry.get_kernel(name)
        assert not file.problems
        assert {row.kernel for row in file.rows} == {kernel.config_fingerprint}, f"{name} was edited: tune it again"
        assert len({row.case for row in file.rows}) == len(file.rows)
        for row in file.rows:
            assert row.us and row.baselines.get("library" if kernel.fallbacks else "inductor") and row.arch == "sm_90"
            assert row.config.get("fallback") in (None, *kernel.fallbacks)
            assert set(row.made_with) == {"gpu", "arch", "kernel", "helion", "triton", "torch", "date", "spills"}


def test_every_promised_shape_is_tuned():
    gpu = Gpu("NVIDIA H200", (9, 0))
    tokens = [2**power for power in range(14)]
    norms = [dict(hidden_size=k, residual=r) for k in (2048, 4096, 5120, 8192) for r in (False, True)]
    quants = [dict(hidden_size=k) for k in (2048, 4096, 5120, 6144, 8192, 12288, 14336, 25600, 28672)]
    for name, shapes in (("norm_quant", norms), ("quant", quants)):
        table = registry.get_kernel(name).table
        for facts in shapes:
            for count in tokens:
                case = Case(dtype="bf16", num_tokens=count, **facts)
                assert table.pick(case, gpu).origin == "exact", case


def test_products_of_two_models_are_tuned_against_both_libraries():
    """Merged projections against CUTLASS too; where the tuner's time ran out the row of more tokens is taken."""
    gpu = Gpu("NVIDIA H200", (9, 0))
    merged = {(4096, 6144), (4096, 4096), (4096, 24576), (12288, 4096), (4096, 28672), (14336, 4096)}
    apart = {(4096, 1024), (4096, 12288), (4096, 14336)}
    facts = {"dtype": "bf16", "operands": "e4m3", "scales": "row", "fast_accum": True}
    table = registry.get_kernel("scaled_mm").table
    for library, sizes in (("torch", merged | apart), ("cutlass", merged)):
        for k, n in sizes:
            for power in range(14):
                case = Case(k=k, n=n, num_tokens=2**power, library=library, **facts)
                assert table.pick(case, gpu).origin in ("exact", "bucketed"), case


def test_tables_stay_small_and_diffable():
    for _, file in shipped():
        lines = file.content.decode().splitlines()
        assert len(lines) == len(file.rows) + 2 and max(map(len, lines)) < 600
        assert len(json.loads(file.content)) == len(file.rows)


def test_no_choice_is_slower_than_its_best_baseline():
    """What runs where sizes are known: the row's config or fallback, or Inductor's kernel where a chain is left to that.

    2 % are within what two measurements of one thing differ by.
    """
    for name, file in shipped():
        for row in file.rows:
            us = row.baselines["inductor"] if beaten_by_inductor(row) else row.us
            assert us <= 1.02 * min(row.baselines.values()), f"{name} ({row.case}): {us} µs, others {row.baselines}"
