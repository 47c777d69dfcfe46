# SPDX-License-Identifier: Apache-2.0
"""One family of cases, step by step, with a compiler and a GPU that are not there."""

import concurrent.futures
import json
from collections import Counter

import pytest

from helion_compile.configs.case import Case
from helion_compile.tune.candidates import Moves
from helion_compile.tune.compiling import Compiled
from helion_compile.tune.family import Effort, Family
from helion_compile.tune.journal import Journal
from tests.support import tune_fakes

TOKENS = (16, 64, 256, 1024, 8192)


class Space:
    """Configs are whole as they are."""

    def whole(self, config):
        return dict(config)

    small = whole


def started(tmp_path, measurer, tokens=TOKENS):
    def compile(case, config):
        done = concurrent.futures.Future()
        done.set_result(Compiled(json.dumps(config, sort_keys=True), "plus_one_or_library"))
        return done

    made = Family(
        tune_fakes.plus_one_or_library,
        [Case(dtype="bf16", hidden_size=64, num_tokens=count) for count in tokens],
        Space(),
        Journal(tmp_path, "run"),
        Moves(),
        Effort(2, rounds=3, steps=12),
        compile=compile,
        measure=lambda method, *arguments: getattr(measurer, method)(*arguments),
    )
    made.start()
    return made


@pytest.fixture
def family(tmp_path):
    return started(tmp_path, tune_fakes.Measurer())


def finished(family, hurry):
    while family.step(hurry):
        pass
    return {case["num_tokens"]: family.journal.done[case] for case in family.cases}


def test_with_time_every_case_is_done(family):
    done = finished(family, hurry=False)
    assert {tokens: entry["effort"] for tokens, entry in done.items()} == dict.fromkeys(TOKENS, 2)


def test_without_time_no_fallback_wins_unopposed_and_the_next_run_goes_on(family):
    family.step(hurry=False)  # one case is measured
    done = finished(family, hurry=True)
    assert {tokens: entry["effort"] for tokens, entry in done.items()} == dict.fromkeys(TOKENS, 0)
    compared = {case["num_tokens"] for case, name in family.journal.baselines if name == "kernel"}
    assert compared == {16, 64, 256, 1024}  # for 8192 tokens the kernel names no configs
    assert done[16]["winner"] == {"num_warps": 8} and done[8192]["winner"] == {"fallback": "library"}


class Wavering(tune_fakes.Measurer):
    """4 warps are fastest once, and slower than 8 in all other careful measurements."""

    TIMES = {2: [4.0], 4: [1.0, 3.0, 3.0, 3.0], 8: [2.0]}

    def __init__(self):
        self.measured = Counter()

    def time(self, source, entry, careful, limit):
        if not source:
            return tune_fakes.LIBRARY_US
        warps = json.loads(source)["num_warps"]
        self.measured[warps] += careful
        times = self.TIMES[warps]
        return times[(self.measured[warps] - 1) % len(times) if careful else 0]


def test_the_median_of_careful_measurements_decides(tmp_path):
    (entry,) = finished(started(tmp_path, Wavering(), tokens=[16]), hurry=False).values()
    assert entry["winner"] == {"num_warps": 8}
