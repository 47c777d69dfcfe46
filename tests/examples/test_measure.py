# SPDX-License-Identifier: Apache-2.0
import math
import time

import pytest
import torch
from measure import agreement, median_cpu_ms, median_gpu_ms, relative_error


def test_relative_error_is_the_ratio_of_norms():
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)
    assert relative_error(torch.ones(4), torch.ones(4)) == 0


def test_relative_error_does_not_round_its_arguments_to_each_other():
    reference = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert relative_error(reference + 1e-12, reference) == pytest.approx(1e-12, rel=1e-3)


def test_relative_error_shows_a_nan():
    assert math.isnan(relative_error(torch.tensor([1.0, math.nan]), torch.ones(2)))


def test_agreement_counts_rows():
    result = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    assert agreement(result, torch.tensor([[0.0, 1.0]]).expand(4, 2)) == 0.75


def test_times_on_a_cpu_are_taken_in_turn():
    called = []
    ways = {"slow": lambda x: (called.append("slow"), time.sleep(0.002)), "fast": lambda x: called.append("fast")}
    times = median_cpu_ms(ways, None, calls=3, warmup=1)
    assert called == ["slow", "fast"] * 4
    assert list(times) == ["slow", "fast"] and times["slow"] >= 2 > times["fast"]


def test_timing_without_inputs_is_refused():
    with pytest.raises(ValueError, match="no inputs"):
        median_gpu_ms(lambda x: x, [])
