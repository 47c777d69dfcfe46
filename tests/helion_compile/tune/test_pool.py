# SPDX-License-Identifier: Apache-2.0
"""The tuner's processes: one that dies or hangs costs what it was asked for, and nothing else."""

import json

import pytest

from helion_compile.configs.case import Case
from helion_compile.tune import pool
from helion_compile.tune.compiling import Target
from helion_compile.tune.worker import Worker, WorkerDied


def case(tokens, size=4096):
    return Case(dtype="bf16", hidden_size=size, num_tokens=tokens)


def test_a_worker_outlives_errors_and_is_replaced_after_death():
    worker = Worker("tests.support.tune_fakes:Measurer", (), {"FAKE_CRASH": "4"}, start="forkserver")
    try:
        assert worker.request("sleep", 0.0) == "awake"
        with pytest.raises(ValueError, match="KeyError: 'no such thing'"):
            worker.request("fail", "no such thing")
        assert worker.deaths == 0
        with pytest.raises(WorkerDied, match="no answer in 0 s"):
            worker.request("sleep", 60.0, seconds=0.2)
        worker.request("open", "plus_one", case(1))
        with pytest.raises(WorkerDied, match="signal SIGSEGV"):
            worker.request("time", json.dumps({"num_warps": 4}), "plus_one", False, 9.0)
        assert worker.request("sleep", 0.0) == "awake" and worker.deaths == 2
        with pytest.raises(WorkerDied, match="RuntimeError: CUDA error: an illegal memory access"):
            worker.request("break_context")
        assert worker.request("sleep", 0.0) == "awake" and worker.deaths == 3
    finally:
        worker.stop()


def test_a_forked_worker_sees_no_gpu_and_others_still_do(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    seen = {}
    for start in ("forkserver", "spawn"):
        worker = Worker("tests.support.tune_fakes:Measurer", (), {}, start)
        try:
            seen[start] = worker.request("variable", "CUDA_VISIBLE_DEVICES")
        finally:
            worker.stop()
    assert seen == {"forkserver": "", "spawn": "3"}


@pytest.fixture
def pool_of_one(monkeypatch):
    made = []

    def make(**environment):
        made.append(
            pool.CompilePool(
                1, ["tests.support.tune_fakes"], Target(90, 132), environment, "tests.support.tune_fakes:Compiler"
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.stop()


def test_a_compiler_that_dies_or_hangs_costs_one_config(pool_of_one, monkeypatch):
    dies = pool_of_one(FAKE_COMPILE_CRASH="2")
    done = [dies.submit("plus_one", case(1), {"num_warps": warps}) for warps in (4, 2, 8)]
    fine, dead, next_one = (future.result(60) for future in done)
    assert not fine.error and not next_one.error
    assert dead.error == "the compiler gave no answer: the process ended with signal SIGSEGV"
    monkeypatch.setattr(pool, "COMPILE_SECONDS", 0.3)
    hangs = pool_of_one(FAKE_COMPILE_SECONDS="99")
    assert (
        hangs.submit("plus_one", case(1), {"num_warps": 4}).result(60).error == "the compiler gave no answer: no answer in 0 s"
    )


def test_what_is_urgent_is_compiled_first(pool_of_one):
    one = pool_of_one(FAKE_COMPILE_SECONDS="0.05")
    order = []
    futures = []
    for urgency, warps in ((1, 1), (3, 2), (3, 4), (2, 8)):
        future = one.submit("plus_one", case(1), {"num_warps": warps}, urgency)
        future.add_done_callback(lambda _, warps=warps: order.append(warps))
        futures.append(future)
    for future in futures:
        future.result(60)
    assert order.index(8) < order.index(2) < order.index(4)
