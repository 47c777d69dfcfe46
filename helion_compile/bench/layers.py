"""``bench layers``: decoder layers of a Hugging Face Qwen3, fp8 per row by torchao, compiled by Inductor and by us.

One forward pass without a KV cache: ``batch`` sequences of ``tokens`` tokens.  Compile time is that of the first call, with
empty caches for each backend.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import statistics
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch._inductor.utils import fresh_cache

from helion_compile.backend import helion
from helion_compile.bench.timing import machine, require_gpu

__all__ = ["main"]

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
    """Sum of the device times of all kernels of one call, in µs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(5):
            fn()
        torch.cuda.synchronize()
    return sum(event.device_time_total for event in recorded.events() if event.device_type.name == "CUDA") / 5


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="helion_compile bench layers", description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--tokens", type=int, default=1, help="tokens of each sequence")
    parser.add_argument("--mode", default="reduce-overhead")
    parser.add_argument("--backends", nargs="+", default=["inductor", "helion"])
    parser.add_argument("--profile", help="write a profile of the compilation for each backend to this file")
    parser.add_argument("--json")
    options = parser.parse_args(argv)
    require_gpu("layers")
    console = Console(soft_wrap=True)
    console.print(machine())
    model = build(options.layers)
    rows = []
    for batch in options.batch:
        results: dict[str, torch.Tensor] = {}
        inputs = [torch.randint(0, 1024, (batch, options.tokens), device="cuda") for _ in range(4)]
        for backend in options.backends:
            # The function itself, since a checkout that is not installed has no entry points.
            chosen = helion if backend == "helion" else backend
            row = measure(model, inputs, {"backend": chosen, "mode": options.mode}, bool(options.profile))
            results[backend] = row.pop("result")
            profile = row.pop("profile")
            if options.profile:
                with open(options.profile, "a") as file:
                    file.write(f"==== {backend}, batch {batch}\n{profile}\n")
            rows.append({"backend": backend, "batch": batch, "tokens": options.tokens, **row})
            console.print(rows[-1])
        if len(results) > 1:
            first, *others = results.values()
            distances = [((other.float() - first.float()).norm() / first.float().norm()).item() for other in others]
            console.print(f"batch {batch}: relative distance from {options.backends[0]}: {distances}")
    table = Table("batch", "backend", "µs a layer, wall", "µs a layer, kernels", "first call, s")
    for row in rows:
        times = (f"{row['layer_us']:.1f}", f"{row['kernels_us']:.1f}", f"{row['compile_s']:.1f}")
        table.add_row(str(row["batch"]), row["backend"], *times)
    console.print(table)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine(), "rows": rows}, file, indent=1)
    return 0
