# SPDX-License-Identifier: Apache-2.0
"""One start of vLLM's whole compiler on a CPU: decorator, backend, piecewise split, pass manager, plug-in, Inductor, cache.

    python -m tests.support.vllm.whole_compiler '{"switch": true, …}'

prints one line of JSON.  The model is two half layers around attention: norm, quantise, product | attention | quantise,
product, add and norm, quantise, product, add and norm.  A process of its own makes a start cold or warm.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections import Counter
from typing import Any

__all__ = ["Start"]

K = 256


@dataclasses.dataclass
class Start:
    """What is started.

    Attributes:
        cache: the folder of vLLM's and Inductor's caches.
        switch: of the plug-in.
        partition: whether Inductor splits the graph, and attention is in it.
        shapes: how vLLM marks the number of tokens; "unbacked" has no value while a graph is compiled.
        draft: whether there is a second model.
        reload: whether weights are exchanged behind the first steps.
        tokens: of each step.
    """

    cache: str
    switch: bool = True
    partition: bool = False
    shapes: str = "backed"
    draft: bool = False
    reload: bool = False
    tokens: tuple[int, ...] = (8, 3)


def _prepare(start: Start) -> None:
    os.environ |= {
        "HELION_COMPILE_VLLM": str(int(start.switch)),
        "HELION_COMPILE_VLLM_OPTIONS": '{"untuned": true}',
        "VLLM_CACHE_ROOT": start.cache,
        "TORCHINDUCTOR_CACHE_DIR": f"{start.cache}/inductor",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_PLUGINS": "helion_compile",
    }


def _run(start: Start) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    import vllm
    from vllm import ir
    from vllm.compilation.backends import set_model_tag
    from vllm.compilation.decorators import support_torch_compile
    from vllm.config import (
        CompilationConfig,
        CompilationMode,
        CUDAGraphMode,
        DeviceConfig,
        VllmConfig,
        set_current_vllm_config,
    )
    from vllm.forward_context import set_forward_context
    from vllm.plugins import load_general_plugins

    from helion_compile.configs.gpu import Gpu
    from helion_compile.vllm import fusion_pass, identity

    fusion_pass.found_gpu = identity.gpu = lambda: Gpu("NVIDIA H200", (9, 0))
    passes = _remember_passes(fusion_pass.FusionPass)
    calls = _count_calls()
    load_general_plugins()
    target, draft = map(support_torch_compile(dynamic_arg_dims={"x": 0}), _define_models(torch))
    config = VllmConfig(
        device_config=DeviceConfig(device="cpu"),
        compilation_config=CompilationConfig(
            mode=CompilationMode.VLLM_COMPILE,
            backend="inductor",
            cudagraph_mode=CUDAGraphMode.NONE,
            compile_sizes=[],
            splitting_ops=["small::attention"],
            use_inductor_graph_partition=start.partition,
            dynamic_shapes_config={"type": start.shapes},
            pass_config={"fuse_rope_kvcache_cat_mla": False},
        ),
    )
    found: dict[str, Any] = {"version": vllm.__version__, "hash": config.compute_hash(), "steps": {}}

    def step(name: str, model: Any, count: int) -> None:
        torch.manual_seed(count)
        x = torch.randn(count, K, dtype=torch.bfloat16)
        with set_forward_context(None, config, num_tokens=count):
            before = calls.copy()
            result = model(x.clone()).float()
            made = calls - before
            eager = type(model).forward(model, x.clone()).float()
        found["steps"][name] = {
            "calls": dict(made),
            "bits": hashlib.sha256(result.numpy().tobytes()).hexdigest(),
            "error": float((result - eager).norm() / eager.norm()),
        }

    with set_current_vllm_config(config), ir.enable_torch_wrap(True), torch.inference_mode():
        torch.manual_seed(0)
        models = {"target": target(vllm_config=config)}
        if start.draft:
            with set_model_tag("eagle_head"):
                models["draft"] = draft(vllm_config=config)
        for name, model in models.items():
            for count in start.tokens:
                step(f"{name} {count}", model, count)
        if start.reload:
            for parameter in models["target"].parameters():  # in place, as vLLM loads weights anew
                if parameter.dtype == torch.float32:
                    parameter.mul_(2)
            step("reloaded", models["target"], start.tokens[0])
    found["graphs"] = [dict(Counter(site.fusion for site in record.sites)) for each in passes for record in each.records]
    found["errors"] = [record.error for each in passes for record in each.records if record.error]
    return found


def _remember_passes(kind: type) -> list[Any]:
    made: list[Any] = []
    original = kind.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        made.append(self)

    kind.__init__ = __init__  # type: ignore[misc]
    return made


def _count_calls() -> Counter[str]:
    """How often generated code calls each kernel."""
    from helion_compile.runtime.call_site import CallSite

    calls: Counter[str] = Counter()
    original = CallSite.find

    def find(self: Any, *values: Any) -> Any:
        calls[self.kernel.short_name] += 1
        return original(self, *values)

    CallSite.find = find  # type: ignore[method-assign]
    return calls


def _define_models(torch: Any) -> tuple[type, type]:
    from torch import nn
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8
    from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape

    from tests.support.vllm import ops  # noqa: F401  defines the operators of vLLM's CUDA library

    library = torch.library.Library("small", "FRAGMENT")
    _libraries.append(library)
    library.define("attention(Tensor q, Tensor(a!) out) -> ()")
    library.impl("attention", lambda q, out: (out.copy_(q * 0.5), None)[1], "CPU")
    torch.library.register_fake("small::attention", lambda q, out: None, lib=library)

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(K, K).to(torch.float8_e4m3fn).t(), requires_grad=False)
            self.scale = nn.Parameter(torch.rand(K, 1) * 0.1, requires_grad=False)
            self.quant = QuantFP8(static=False, group_shape=GroupShape.PER_TOKEN, compile_native=False)

        def forward(self, x):
            q, scale = self.quant.forward_native(x)
            out = torch.empty((q.shape[0], K), dtype=torch.bfloat16)
            torch.ops._C.cutlass_scaled_mm(out, q, self.weight, scale, self.scale, None)
            return out

    class Target(nn.Module):
        def __init__(self, *, vllm_config, prefix=""):
            super().__init__()
            self.norms = nn.ModuleList(RMSNorm(K, dtype=torch.bfloat16) for _ in range(3))
            self.halves = nn.ModuleList(Half() for _ in range(3))

        def forward(self, x):
            residual = x
            x = self.halves[0](self.norms[0].forward_native(x))
            attended = torch.empty_like(x)
            torch.ops.small.attention(x, attended)
            x, residual = self.norms[1].forward_native(self.halves[1](attended), residual)
            x, residual = self.norms[2].forward_native(self.halves[2](x), residual)
            return x

    class Draft(Target):
        def forward(self, x):
            return self.halves[1](self.norms[1].forward_native(x))

    return Target, Draft


_libraries: list[Any] = []

if __name__ == "__main__":
    asked = Start(**json.loads(sys.argv[1]))
    _prepare(asked)
    logging.captureWarnings(True)
    print(json.dumps(_run(asked)))
