# SPDX-License-Identifier: Apache-2.0
"""How far a result is from the truth, and how long a call takes."""

import statistics
import time

import torch


def relative_error(result, reference):
    """‖result - reference‖ / ‖reference‖ in fp64, as a float; NaN or inf in `result` shows as such."""
    result, reference = result.double(), reference.double()
    return (torch.linalg.vector_norm(result - reference) / torch.linalg.vector_norm(reference)).item()


def agreement(result, reference):
    """The share of rows whose largest element is at the same place: for logits, the same next token. 0 to 1."""
    return (result.argmax(-1) == reference.argmax(-1)).double().mean().item()


def median_cpu_ms(functions, value, *, calls=20, warmup=2):
    """The median time of `function(value)` in ms for each of the named `functions`, which are called in turn.

    In turn, since other work on the machine then slows all of them.
    """
    times = {name: [] for name in functions}
    for _ in range(warmup + calls):
        for name, function in functions.items():
            start = time.perf_counter()
            function(value)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(taken[warmup:]) for name, taken in times.items()}


def median_gpu_ms(function, inputs, *, calls=50, warmup=10):
    """The median time of `function(input)` in ms, by CUDA events, taking `inputs` in turn.

    Each call is timed alone with an empty queue, so it contains what the host takes to launch: the latency a caller
    sees. The inputs rotate because a call that sees the same data again finds it in the L2.
    """
    if not inputs:
        raise ValueError("median_gpu_ms was given no inputs to time the function with; give it at least one")
    times = []
    for call in range(warmup + calls):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.compiler.cudagraph_mark_step_begin()  # the last result is not needed: its memory may be replayed into
        torch.cuda.synchronize()
        start.record()
        function(inputs[call % len(inputs)])
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[warmup:])
