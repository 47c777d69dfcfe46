# SPDX-License-Identifier: Apache-2.0
"""``bench launch``, cold start: 28 kernels compiled and ready, in fresh processes, with empty and with warm caches.

Seven numbers of tokens × four hidden sizes of ``norm_quant``, each with a config of its own, as a tuned table has them.
Times are from a process whose imports are done and whose GPU is ready, until every kernel has run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

__all__ = ["ATTRIBUTES", "measure"]

TOKENS = (1, 16, 64, 256, 1024, 2048, 8192)
HIDDEN = (2048, 4096, 5120, 8192)
CONFIGS = ((1, 4), (1, 8), (1, 16), (2, 4), (2, 8), (2, 16), (4, 16))  # (rows a program, warps), one for each of TOKENS
# What follows x and weight: Llama's norm and torchao's quantiser.
QUANTIZER = "float8_e4m3fn clamp=-448:448 scale_dtype=bfloat16"
ATTRIBUTES = (None, None, None, None, 1e-6, "rms cast_then_scale", QUANTIZER, False, False)


def measure() -> dict[str, float]:
    """Seconds by what was done; each figure from a process of its own."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for caches in ("empty", "warm"):
            child = _child(folder, "ours")
            rows[f"ours, {caches} caches"] = child["seconds"]
            rows[f"ours, {caches} caches: binaries"] = child["loaded"]
            rows[f"ours, {caches} caches: configs traced"] = child["traced"]
            rows[f"ours, {caches} caches: imports before"] = child["imports"]
    with tempfile.TemporaryDirectory() as folder:
        rows["Helion's own calls one after another, empty caches"] = _child(folder, "helion")["seconds"]
        rows["Helion's own calls one after another, warm caches"] = _child(folder, "helion")["seconds"]
    return rows


def _child(folder: str, how: str) -> dict[str, Any]:
    names = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "HELION_COMPILE_CONFIG_DIR", "HELION_COMPILE_CACHE_DIR")
    environment = {**os.environ, **{name: os.path.join(folder, name.lower()) for name in names}}
    command = [sys.executable, "-m", "helion_compile.bench.cold_start", how]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _run(how: str) -> dict[str, Any]:
    start = time.perf_counter()
    import torch

    import helion_compile
    from helion_compile.configs.table import ConfigTable, Gpu, Row
    from helion_compile.kernels import norm_quant
    from helion_compile.runtime.call_target import make_host_function

    torch.zeros(1, device="cuda")
    imports = time.perf_counter() - start
    weights = {k: torch.randn(k, device="cuda", dtype=torch.bfloat16) for k in HIDDEN}
    inputs = {(m, k): torch.randn(m, k, device="cuda", dtype=torch.bfloat16) for m in TOKENS for k in HIDDEN}

    def arguments(m: int, k: int) -> tuple[Any, ...]:
        return (inputs[m, k], weights[k], *ATTRIBUTES)

    gpu = Gpu.current()
    # Without the shipped rows, in which several sizes share a config.
    norm_quant.table = ConfigTable("norm_quant", folders=[os.environ["HELION_COMPILE_CONFIG_DIR"]])
    if not norm_quant.table.rows(gpu):
        rows = []
        for m, (block, warps) in zip(TOKENS, CONFIGS, strict=True):
            for k in HIDDEN:
                rows.append(Row(norm_quant.case(*arguments(m, k)), {"block_sizes": [block, block], "num_warps": warps}))
        norm_quant.table.add(rows, gpu)
    torch.cuda.synchronize()
    start = time.perf_counter()
    if how == "ours":
        helion_compile.warm_up(
            lambda *calls: [norm_quant(*call) for call in calls], TOKENS, lambda m: [arguments(m, k) for k in HIDDEN]
        )
        with torch.no_grad():
            for m, k in inputs:
                norm_quant(*arguments(m, k))
    else:
        for m, k in inputs:
            args = arguments(m, k)
            make_host_function(norm_quant, args, norm_quant.pick(args).config)(*args)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    counted = helion_compile.counters
    return {"seconds": seconds, "imports": imports, **vars(counted)}


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1])))
