# SPDX-License-Identifier: Apache-2.0
"""One process of ``bench vllm``: ``python -m helion_compile.bench.vllm_run SPEC.json``.

Starts vLLM on a Qwen3 of the given shape, gives it random weights, runs the work and writes times as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import statistics
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["model_config", "run", "work_of"]

_FP8 = {"num_bits": 8, "type": "float", "symmetric": True}
_WORK = re.compile(r"(\d+)x(\d+)\+(\d+)")


def work_of(text: str) -> tuple[int, int, int] | None:
    """Prompts, tokens of each and new tokens of each: of "16x128+64"; None for a text of another form."""
    found = _WORK.fullmatch(text)
    if found is None:
        return None
    prompts, tokens, new = map(int, found.groups())
    return (prompts, tokens, new) if prompts and tokens and new else None


def model_config(spec: dict[str, Any]) -> dict[str, Any]:
    """``config.json`` of a Qwen3 whose linears are in fp8 by the scheme of ``spec``."""
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "attention_bias": False,
        "hidden_size": spec["hidden"],
        "intermediate_size": spec["intermediate"],
        "num_hidden_layers": spec["layers"],
        "num_attention_heads": spec["hidden"] // 128,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": False,
        "vocab_size": 151936,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    }
    if spec["scheme"] == "block":
        config["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
        }
        return config
    activations, weights = {
        "token": ({"dynamic": True, "strategy": "token", "observer": None}, "channel"),
        "tensor": ({"dynamic": False, "strategy": "tensor", "observer": "minmax"}, "tensor"),
    }[spec["scheme"]]
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "input_activations": _FP8 | activations,
                "weights": _FP8 | {"dynamic": False, "strategy": weights, "observer": "minmax"},
            }
        },
    }
    return config


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Start vLLM and measure."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        VLLM_NO_USAGE_STATS="1",
        VLLM_USE_FLASHINFER_SAMPLER="0",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
    )
    os.environ.setdefault("VLLM_DEEP_GEMM_WARMUP", "skip")  # block: 1735 kernels, minutes
    folder = Path(spec["model"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model_config(spec)))

    import torch
    from vllm import LLM

    compilation: dict[str, Any] = {}
    if spec["variant"] == "ours":
        _ensure_plugin()
    if spec["variant"] == "slot":
        import helion_compile.vllm

        ours = helion_compile.vllm.FusionPass(**spec["options"])
        compilation["inductor_compile_config"] = {"post_grad_custom_post_pass": ours}
    started = time.perf_counter()
    llm = LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        load_format="dummy",
        max_model_len=4096,
        gpu_memory_utilization=0.7,
        compilation_config=compilation,
        disable_log_stats=True,
        max_num_seqs=256,
        enforce_eager=spec["variant"] == "eager",
    )
    result: dict[str, Any] = {"init_s": time.perf_counter() - started, "ms": {}, "kernels": []}
    from helion_compile.runtime.counters import counters

    before = counters.compiled
    llm.collective_rpc(_fill_weights)
    for work in spec["work"]:
        size = work_of(work)
        assert size, f"{work} was checked where it was read"
        result["ms"][work] = _time(llm, *size, spec["repeats"])
    if spec["logits"]:
        torch.save(_logits(llm), spec["logits_file"])
    if spec["profile"]:
        result["kernels"] = _kernels_of_a_step(llm, spec["profile"])
    return result | {"compiled_while_serving": counters.compiled - before}


def _ensure_plugin() -> None:
    """vLLM finds plug-ins by entry points, which a checkout that is not installed does not have."""
    from importlib.metadata import entry_points

    if "helion_compile" not in entry_points(group="vllm.general_plugins").names:
        from helion_compile.vllm import plugin

        plugin.register()


def _prompts(batch: int, prompt: int, variation: int) -> list[list[int]]:
    """Token ids, the same in every process.  No two begin alike: vLLM keeps what it computed of a beginning."""
    made = []
    for row in range(batch):
        numbers = random.Random(f"{batch} {prompt} {variation} {row}")
        made.append([numbers.randrange(5, 1005) for _ in range(prompt)])
    return made


def _generate(llm: Any, prompts: list[list[int]], new: int) -> None:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
    llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)


def _time(llm: Any, batch: int, prompt: int, new: int, repeats: int) -> float:
    """Median time in ms, without the first."""
    times = []
    for repeat in range(repeats + 1):
        prompts = _prompts(batch, prompt, repeat)
        started = time.perf_counter()
        _generate(llm, prompts, new)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[1:])


def _fill_weights(worker: Any) -> None:
    """Random weights of a trained model's size, the same in every process; vLLM's dummy ones are 0 in fp8."""
    import torch

    for name, parameter in worker.get_model().named_parameters():
        data = parameter.data
        generator = torch.Generator(data.device).manual_seed(zlib.crc32(name.encode()))
        if "input_scale" in name:
            data.fill_(2.0**-6)
        elif "scale" in name:
            data.fill_(2.0**-12)  # a power of two is a scale in every format
        elif data.dim() == 1:
            data.copy_(1 + 0.1 * torch.randn(data.shape, generator=generator, device=data.device))
        else:
            # Row by row, since the fp32 values of a whole matrix may not fit beside the cache.
            size = 64.0 if data.dtype == torch.float8_e4m3fn else 0.02
            for row in data.split(4096):
                values = torch.randn(row.shape, generator=generator, device=data.device).mul_(size)
                row.copy_(values.clamp_(-448, 448).to(data.dtype))


def _logits(llm: Any) -> Any:
    """fp32 logits [4, vocabulary] behind four prompts of 64 tokens."""
    import torch

    kept: list[Any] = []
    llm.collective_rpc(_keep_logits, args=(kept,))
    _generate(llm, _prompts(4, 64, 0), 1)
    llm.collective_rpc(_keep_no_more)  # a profile would show the copies
    return torch.cat(kept)


def _keep_logits(worker: Any, kept: list[Any]) -> None:
    model = worker.get_model()
    compute = model.compute_logits

    @functools.wraps(compute)
    def compute_logits(*args: Any, **kwargs: Any) -> Any:
        logits = compute(*args, **kwargs)
        kept.append(logits.float().cpu())
        return logits

    model.compute_logits = compute_logits


def _keep_no_more(worker: Any) -> None:
    model = worker.get_model()
    model.compute_logits = model.compute_logits.__wrapped__


def _kernels_of_a_step(llm: Any, batch: int) -> list[tuple[str, float, float]]:
    """Name, calls and µs of each kernel of one decode step: what 16 steps have more than 8."""
    from torch.profiler import ProfilerActivity, profile

    found, prompts = [], _prompts(batch, 128, 0)
    for new in (9, 17):
        _generate(llm, prompts, new)
        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            _generate(llm, prompts, new)
        calls: Counter[str] = Counter()
        times: Counter[str] = Counter()
        for event in recorded.events():
            if event.device_type.name == "CUDA":
                calls[event.name] += 1
                times[event.name] += event.device_time_total
        found.append((calls, times))
    (few, short), (many, long) = found
    rows = [(name, (many[name] - few[name]) / 8, (long[name] - short[name]) / 8) for name in many]
    return sorted((row for row in rows if row[2] > 0.05), key=lambda row: -row[2])


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text())
    Path(spec["result"]).write_text(json.dumps(run(spec)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
