# SPDX-License-Identifier: Apache-2.0
"""Where a step's time goes, from a profiler's events; read without a GPU."""

from types import SimpleNamespace

import pytest

from helion_compile.bench.timeline import Span, account, busy, spans_of


def step(at):
    """30 µs: a copy of an input, then three kernels, the last of which begins while the second ends."""
    return [
        Span("Memcpy DtoD (Device -> Device)", at, at + 2),
        Span("_helion_norm_quant", at + 7, at + 9),
        Span("cutlass::gemm", at + 10, at + 20),
        Span("_helion_norm_quant", at + 19.5, at + 22),
    ]


def test_a_step_is_what_runs_and_what_is_between():
    spans = [span for number in range(5) for span in step(30.0 * number)]
    rows = account(spans[::-1], 5)
    assert (rows["kernels"], rows["copies"], rows["memsets"]) == (3, 1, 0)
    assert rows["in kernels"] == 14.5 and rows["in copies and memsets"] == 2
    assert rows["idle between its nodes together"] == 6 and rows["overlap of its nodes together"] == 0.5
    assert rows["idle between two nodes"] == 1
    assert rows["idle before the next step"] == 8
    # Nothing is lost and nothing is counted twice.
    parts = ("in kernels", "in copies and memsets", "idle between its nodes together", "idle before the next step")
    assert sum(rows[part] for part in parts) - rows["overlap of its nodes together"] == 30


def test_steps_that_are_not_equal_are_refused():
    with pytest.raises(ValueError, match="9 spans are not 2 equal steps"):
        account(step(0.0) + step(30.0) + [Span("Memset", 70, 71)], 2)


def test_events_on_the_host_are_no_spans():
    def event(device, name):
        return SimpleNamespace(
            device_type=SimpleNamespace(name=device), name=name, time_range=SimpleNamespace(start=1.0, end=3.0)
        )

    assert spans_of([event("CPU", "cudaGraphLaunch"), event("CUDA", "gemm")]) == [Span("gemm", 1.0, 3.0)]


def test_time_that_two_spans_share_is_busy_once():
    assert busy([]) == 0.0
    spans = [Span("a", 0.0, 4.0), Span("b", 3.0, 6.0), Span("c", 3.5, 5.0), Span("d", 8.0, 9.0)]
    assert busy(reversed(spans)) == 7.0
