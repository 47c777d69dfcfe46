# SPDX-License-Identifier: Apache-2.0
"""``bench launch``, decode: whether under CUDA graphs the GPU is ever idle between the kernels of a step."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from helion_compile import compat, kernels
from helion_compile.bench.cold_start import ATTRIBUTES
from helion_compile.bench.timeline import account, spans_of

__all__ = ["measure"]

LAYERS, TOKENS, HIDDEN = 32, 16, 4096
STEPS = 10  # that are profiled


def measure() -> dict[str, float]:
    """Of norm + quantise -> fp8 matmul, 32 times: time of a step between events in µs, and what it consists of."""
    rows = {}
    for name, step in (("ours", _ours), ("Inductor", _written)):
        compat.dynamo.reset()
        wall, parts = _time(step)
        rows[f"{name}: a step"] = wall
        rows |= {f"{name}: {part}": value for part, value in parts.items()}
        rows[f"{name}: share of the step in kernels"] = parts["in kernels"] / wall
    return rows


def _ours(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return kernels.norm_quant(x, weight, *ATTRIBUTES)


def _written(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x32 = x.float()
    norm = weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
    scale = (norm.abs().amax(-1, keepdim=True) / 448.0).float()
    return (norm.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


def _time(quantised: Any) -> tuple[float, dict[str, float]]:
    from torch.profiler import ProfilerActivity, profile

    x = torch.randn(TOKENS, HIDDEN, device="cuda", dtype=torch.bfloat16)
    norms = [torch.randn(HIDDEN, device="cuda", dtype=torch.bfloat16) for _ in range(LAYERS)]
    # As many as there are layers, so that they do not stay in the L2.
    linears = [torch.randn(HIDDEN, HIDDEN, device="cuda").to(torch.float8_e4m3fn).t() for _ in range(LAYERS)]
    scale = torch.full((1, HIDDEN), 0.01, device="cuda")
    # As parameters of a module are: the CUDA graph reads them where they lie.  Other inputs are copied before each replay,
    # and that would be half a gigabyte here.
    for weight in (*norms, *linears, scale):
        compat.dynamo.mark_static_address(weight)

    @torch.compile(mode="reduce-overhead", dynamic=False)
    def step(x: torch.Tensor) -> torch.Tensor:
        for norm, linear in zip(norms, linears, strict=True):
            q, row_scale = quantised(x, norm)
            x = torch._scaled_mm(q, linear, row_scale, scale, out_dtype=torch.bfloat16)
        return x

    for _ in range(5):
        step(x)
    times = []
    for _ in range(30):
        torch.cuda.synchronize()
        # The queue is kept busy for a moment, so that the time between the events is the GPU's and not the host's.
        torch.cuda._sleep(1_000_000)
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step(x)
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) * 1e3)
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(STEPS):
            step(x)
        torch.cuda.synchronize()
    return statistics.median(times), account(spans_of(recorded.events()), STEPS)
