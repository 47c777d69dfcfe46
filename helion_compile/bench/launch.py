# SPDX-License-Identifier: Apache-2.0
"""``bench launch``: what a call costs the host, eagerly and in a compiled graph, side by side with the other ways to launch.

Medians in µs of calls that queue work on an idle GPU, all in one process; then cold starts, each in a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from helion_compile import compat, kernels
from helion_compile.bench import cold_start, decode
from helion_compile.bench.cold_start import ATTRIBUTES
from helion_compile.bench.timing import host_us, machine, require_gpu
from helion_compile.cli.options import command, count, output_file, several
from helion_compile.runtime.call_target import make_host_function

__all__ = ["main"]

EPS = 1e-6
PARTS = ("eager", "compiled", "cold", "decode")


@command("bench launch", __doc__, examples=["helion-compile bench launch --parts eager compiled"])
@click.option("--m", type=count, default=16)
@click.option("--k", type=count, default=4096)
@several("--parts", type=click.Choice(PARTS), default=PARTS)
@several("--modes", type=click.Choice(("plain", "CUDA graph")), default=("plain", "CUDA graph"))
@click.option("--json", type=output_file, metavar="FILE", help="write the figures to this file, each part when it is there")
def main(options: SimpleNamespace) -> int:
    require_gpu("launch")
    console = Console(soft_wrap=True)
    console.print(machine())
    figures: dict[str, Any] = {"machine": machine(), "m": options.m, "k": options.k}

    def tell(title: str, unit: str, rows: dict[str, float]) -> None:
        table = Table(title, unit)
        for name, value in rows.items():
            table.add_row(name, f"{value:.2f}")
        console.print(table)
        figures[f"{title}, {unit}"] = rows
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1))

    if "cold" in options.parts:  # first: the others would share the machine with it
        tell("cold start", "s", cold_start.measure())
    with torch.no_grad():
        x = torch.randn(options.m, options.k, device="cuda", dtype=torch.bfloat16)
        weight = torch.randn(options.k, device="cuda", dtype=torch.bfloat16)
        if "eager" in options.parts:
            tell("eager", "µs", eager(x, weight))
        if "compiled" in options.parts:
            tell("compiled", "µs", compiled(x, weight, options.modes))
        if "decode" in options.parts:
            tell("decode", "µs", decode.measure())
    return 0


def eager(x: torch.Tensor, weight: torch.Tensor) -> dict[str, float]:
    """The kernel called directly: by us, by Helion, by Triton with outputs allocated."""
    arguments = (x, weight, *ATTRIBUTES)
    ours = kernels.norm_quant
    noted: list[tuple[Any, ...]] = []
    host = make_host_function(ours, arguments, ours.pick(arguments).config)
    host(*arguments, _launcher=lambda kernel, grid, *args, **options: noted.append((kernel, grid, args, options)))
    kernel, grid, args, launch_options = noted[0]
    inputs = {x.data_ptr(), weight.data_ptr()}
    outputs = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.data_ptr() not in inputs]

    def triton() -> None:
        for output in outputs:
            torch.empty(output.shape, dtype=output.dtype, device="cuda")
        kernel[grid](*args, **launch_options)

    rows = {
        "ours": host_us(lambda: ours(*arguments)),
        "Helion's own call": host_us(lambda: ours.helion(*arguments)),
        "Helion's host function for a chosen config": host_us(lambda: host(*arguments)),
        "Triton kernel[grid] and two torch.empty": host_us(triton),
        "two torch.empty": host_us(lambda: [torch.empty(o.shape, dtype=o.dtype, device="cuda") for o in outputs]),
        "torch.add": host_us(lambda: torch.add(x, x)),
    }
    vllm = _vllm_op()
    if vllm is not None:

        def call_vllm() -> None:
            q = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device="cuda")
            scale = torch.empty((x.size(0), 1), dtype=torch.float32, device="cuda")
            vllm(q, x, weight, scale, EPS, None, None)

        rows["vLLM's C++ op and two torch.empty"] = host_us(call_vllm)
    return rows


def _vllm_op() -> Callable[..., Any] | None:
    try:
        from helion_compile.compat import vllm_custom_ops  # noqa: F401  loads the op library

        return torch.ops._C.rms_norm_dynamic_per_token_quant
    except (ImportError, AttributeError):
        return None


def compiled(x: torch.Tensor, weight: torch.Tensor, modes: Sequence[str]) -> dict[str, float]:
    """One, three and eight calls in a compiled graph.  What they add to the graph's one other kernel, and that alone."""

    def written(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x32 = x.float()
        norm = weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)
        scale = (norm.abs().amax(-1, keepdim=True) / 448.0).float()
        return (norm.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale

    @torch.library.custom_op("helion_compile_bench::norm_quant", mutates_args=())
    def custom(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return kernels.norm_quant.helion(x, weight, *ATTRIBUTES)

    @custom.register_fake
    def _(x, weight):
        return torch.empty_like(x, dtype=torch.float8_e4m3fn), x.new_empty((x.size(0), 1), dtype=torch.float32)

    def ours(x: torch.Tensor, weight: torch.Tensor) -> Any:
        return kernels.norm_quant(x, weight, *ATTRIBUTES)

    small = torch.randn(16, device="cuda")
    rows = {}
    for label in modes:
        mode = {"plain": None, "CUDA graph": "reduce-overhead"}[label]
        base = _time_compiled(lambda small: (small + 1, []), (small,), mode)
        rows[f"{label}, no call"] = base
        for calls in (1, 3, 8):
            # Inputs and weights of their own: steps that read one tensor Inductor would merge into one kernel.
            inputs = [tensor.clone() for _ in range(calls) for tensor in (x, weight)]
            # In a model these are parameters and other kernels' results.  Plain inputs of a CUDA graph are copied before each
            # replay, which is no part of a call.
            for tensor in inputs:
                compat.dynamo.mark_static_address(tensor)
            for name, step in (("ours", ours), ("Inductor", written), ("custom_op", custom)):

                def several(small: torch.Tensor, *inputs: torch.Tensor, step: Any = step) -> Any:
                    pairs = zip(inputs[::2], inputs[1::2], strict=True)
                    return small + 1, [step(x, weight) for x, weight in pairs]

                added = _time_compiled(several, (small, *inputs), mode) - base
                rows[f"{label}, {calls} in a row: {name}"] = added
                print(f"{label}, {calls} in a row: {name} {added:.2f}", file=sys.stderr, flush=True)
    return rows


def _time_compiled(function: Callable[..., Any], arguments: tuple[torch.Tensor, ...], mode: str | None) -> float:
    compat.dynamo.reset()
    run = torch.compile(function, dynamic=False, mode=mode)
    return host_us(lambda: run(*arguments))
