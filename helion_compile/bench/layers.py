# SPDX-License-Identifier: Apache-2.0
"""``bench layers``: decoder layers of a Hugging Face Qwen3, fp8 per row by torchao, compiled by Inductor and by us.

One forward pass without a KV cache: ``batch`` sequences of ``tokens`` tokens.  Compile time is that of the first call, with
empty caches for each backend.  The limit is that of the GEMMs alone, whose weights have to be read.
"""

from __future__ import annotations

import cProfile
import functools
import io
import operator
import pstats
import statistics
import time
from types import SimpleNamespace
from typing import Any

import click
import torch

from helion_compile.bench.rows import Rows, distance
from helion_compile.bench.timeline import busy, spans_of
from helion_compile.bench.timing import copy_bandwidth, product_rate, require_gpu, require_packages
from helion_compile.bench.work import Limits, Work, work_of_case
from helion_compile.cli.options import command, count, output_file, several
from helion_compile.compat import fresh_cache
from helion_compile.configs.case import Case
from helion_compile.frontend.backend import helion
from helion_compile.kernels import scaled_mm

__all__ = ["main", "row_of", "work_of_layer"]

QWEN3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
}


def build(layers: int) -> torch.nn.Module:
    """Qwen3-8B's decoder layers with random weights, linears in fp8 per row, on the GPU."""
    import transformers
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    config = transformers.Qwen3Config(**QWEN3_8B, num_hidden_layers=layers, vocab_size=1024)
    with torch.device("cuda"):
        model = transformers.Qwen3Model(config).to(torch.bfloat16).eval()
    quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))
    return model.requires_grad_(False)


def measure(model: torch.nn.Module, inputs: list[torch.Tensor], compiled: dict[str, Any], profile: bool) -> dict[str, Any]:
    """Compile time in s, and time a layer in µs, for one backend; ``inputs`` are token ids [batch, tokens]."""
    layers = model.config.num_hidden_layers
    torch.compiler.reset()
    profiler = cProfile.Profile()
    with torch.no_grad(), fresh_cache():
        run = torch.compile(model, dynamic=False, **compiled)
        torch.cuda.synchronize()
        start = time.perf_counter()
        if profile:
            profiler.enable()
        result = run(inputs[0], use_cache=False).last_hidden_state.clone()
        torch.cuda.synchronize()
        profiler.disable()
        compile_s = time.perf_counter() - start
        for _ in range(3):
            run(inputs[1], use_cache=False)
        times = []
        for repeat in range(30):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run(inputs[repeat % len(inputs)], use_cache=False)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e6 / layers)
        kernels_us = _kernel_time(lambda: run(inputs[0], use_cache=False)) / layers
    stats = io.StringIO()
    if profile:
        pstats.Stats(profiler, stream=stats).sort_stats("cumulative").print_stats(60)
    return {
        "compile_s": compile_s,
        "layer_us": statistics.median(times),
        "kernels_us": kernels_us,
        "result": result,
        "profile": stats.getvalue(),
    }


def _kernel_time(fn: Any) -> float:
    """How long any kernel of one call runs, in µs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(5):
            fn()
        torch.cuda.synchronize()
    return busy(spans_of(recorded.events())) / 5


def work_of_layer(tokens: int) -> Work:
    """Of the GEMMs of one layer, which no backend can leave out; Hugging Face's projections are apart."""
    hidden, inner, head = QWEN3_8B["hidden_size"], QWEN3_8B["intermediate_size"], QWEN3_8B["head_dim"]
    heads, shared = QWEN3_8B["num_attention_heads"] * head, QWEN3_8B["num_key_value_heads"] * head
    products = [(hidden, heads), *2 * [(hidden, shared)], (heads, hidden), *2 * [(hidden, inner)], (inner, hidden)]
    fields = {
        "num_tokens": tokens,
        "operands": "e4m3",
        "dtype": "bf16",
        "scales": "row",
        "fast_accum": True,
        "library": "torch",
    }
    works = (work_of_case(scaled_mm, Case(k=k, n=n, **fields)) for k, n in products)
    return functools.reduce(operator.add, works)


def row_of(measured: dict[str, dict[str, Any]], batch: int, tokens: int, limits: Limits) -> dict[str, Any]:
    """The row of a batch: ours, the first of ``measured``, beside the others."""
    (ours, first), *others = measured.items()
    work = work_of_layer(batch * tokens)
    least, limit = limits.least(work)
    return {
        "kernel": "layer of Qwen3-8B",
        "batch": batch,
        "m": batch * tokens,
        "config": {"backend": ours},
        "us": first["layer_us"],
        "baselines": {name: other["layer_us"] for name, other in others},
        "bytes": work.bytes,
        "operations": work.operations,
        "products": work.products,
        "limit_us": least,
        "limit": limit,
        "share": least / first["layer_us"],
        # Two ways of rounding a whole model differ by 8 %, see docs/measurements.md: told, not judged.
        "apart": {name: distance(1.0)(first["result"], other["result"])[0] for name, other in others},
        "kernels_us": {name: each["kernels_us"] for name, each in measured.items()},
        "first_call_s": {name: each["compile_s"] for name, each in measured.items()},
        "notes": {},
        "wrong": [],
    }


@command("bench layers", __doc__, examples=["helion-compile bench layers --layers 4 --batch 1 16"])
@click.option("--layers", type=count, default=4)
@several("--batch", type=count, default=[1, 16, 64])
@click.option("--tokens", type=count, default=1, help="tokens of each sequence")
@click.option("--mode", default="reduce-overhead", help="of ours")
@several("--against", default=["reduce-overhead", "max-autotune"], help="modes of Inductor")
@click.option(
    "--profile", type=output_file, metavar="FILE", help="write a profile of the compilation for each backend to this file"
)
@click.option("--json", type=output_file, metavar="FILE", help="write the rows to this file, each when it is there")
def main(options: SimpleNamespace) -> int:
    require_gpu("layers")
    require_packages("layers", "transformers", "torchao")
    rows = Rows(Limits(copy_bandwidth(), product_rate()), options.json)
    model = build(options.layers)
    # The function itself, since a checkout that is not installed has no entry points.
    compiled = {f"helion {options.mode}": {"backend": helion, "mode": options.mode}}
    compiled |= {f"inductor {mode}": {"backend": "inductor", "mode": mode} for mode in options.against}
    for batch in options.batch:
        inputs = [torch.randint(0, 1024, (batch, options.tokens), device="cuda") for _ in range(4)]
        measured = {}
        for name, how in compiled.items():
            measured[name] = measure(model, inputs, how, bool(options.profile))
            print(name, {key: round(measured[name][key], 1) for key in ("layer_us", "kernels_us", "compile_s")}, flush=True)
            if options.profile:
                with options.profile.open("a") as file:
                    file.write(f"==== {name}, batch {batch}\n{measured[name]['profile']}\n")
        rows.add(row_of(measured, batch, options.tokens, rows.limits))
    return rows.end()
