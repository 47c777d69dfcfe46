# SPDX-License-Identifier: Apache-2.0
"""vLLM's operators as far as its graphs name them: schemas, results' shapes, and of some what they compute, for a CPU.

The schemas are those of the newest snapshot (``schemas``); those of operators in no table are copied from vLLM's Python
sources, with a layer's name as a string.  Where vLLM itself is imported and has defined an operator, that one stays.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import torch

from helion_compile.passes.compat import VLLM

# vLLM, where there is one, defines its operators once, and does not look whether they are there.
with contextlib.suppress(ModuleNotFoundError):
    import vllm.compilation.passes.pass_manager
    import vllm.config
    import vllm.ir.ops  # noqa: F401

_LORA = (
    "Tensor token_lora_mapping, Tensor token_indices_sorted_by_lora_ids, Tensor num_tokens_per_lora, "
    "Tensor lora_token_start_loc, Tensor lora_ids, Tensor no_lora_flag_cpu, Tensor num_active_loras"
)
# Operators that are in no table; graphs name them beside those that are.
_OTHERS = [
    "all_reduce(Tensor tensor, str group_name) -> Tensor",
    "reduce_scatter(Tensor tensor, SymInt dim, SymInt world_size, str group_name) -> Tensor",
    "all_gather(Tensor tensor, SymInt dim, SymInt world_size, str group_name) -> Tensor",
    "unified_attention_with_output(Tensor query, Tensor key, Tensor value, Tensor! output, str layer_name) -> ()",
    "unified_kv_cache_update(Tensor key, Tensor value, str layer_name) -> Tensor",
    "moe_forward(Tensor! hidden_states, Tensor router_logits, Tensor? shared_experts_input, Tensor? input_ids, "
    "str layer_name, SymInt hidden_dim_unpadded) -> Tensor",
    f"lora_shrink(Tensor inputs, Tensor[] lora_a_weights, Tensor! output_tensor, {_LORA}, float scaling) -> ()",
    f"lora_expand(Tensor inputs, Tensor[] lora_b_weights, Tensor! output_tensor, {_LORA}, SymInt offset_start=0, "
    "bool add_inputs=False) -> ()",
]


def rms_norm(x, weight, epsilon, variance_size=None):
    """The body in vLLM's ``ir/ops/layernorm.py``, step by step."""
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.pow(2).mean(dim=-1, keepdim=True) + epsilon)
    return (normed if weight is None else normed.to(weight.dtype) * weight).to(x.dtype)


def fused_add_rms_norm(x, x_residual, weight, epsilon, variance_size=None):
    """As above; the norm is that of the sum before it is rounded."""
    total = x.float() + x_residual.float()
    normed = total * torch.rsqrt(total.pow(2).mean(dim=-1, keepdim=True) + epsilon)
    return (normed if weight is None else normed.to(weight.dtype) * weight).to(x.dtype), total.to(x.dtype)


def silu_and_mul(result, input):
    gate, up = input.chunk(2, -1)
    result.copy_((gate.float() / (1 + torch.exp(-gate.float()))).to(gate.dtype) * up)


def cutlass_scaled_mm(out, a, b, a_scales, b_scales, bias):
    product = (a.float() * a_scales) @ (b.float() * b_scales.reshape(1, -1))
    out.copy_(product if bias is None else product + bias)


_CPU = {
    "vllm_ir::rms_norm": rms_norm,
    "vllm_ir::fused_add_rms_norm": fused_add_rms_norm,
    "_C::silu_and_mul": silu_and_mul,
    "_C::cutlass_scaled_mm": cutlass_scaled_mm,
}
_SHAPES = {
    "vllm_ir::rms_norm": lambda x, *_: torch.empty_like(x),
    "vllm_ir::fused_add_rms_norm": lambda x, residual, *_: (torch.empty_like(x), torch.empty_like(x)),
    "vllm::all_reduce": lambda x, *_: torch.empty_like(x),
    "vllm::reduce_scatter": lambda x, dim, world, _: x.new_empty((x.size(0) // world, *x.shape[1:])),
    "vllm::all_gather": lambda x, dim, world, _: x.new_empty((x.size(0) * world, *x.shape[1:])),
    "vllm::unified_kv_cache_update": lambda key, *_: key.new_empty(0),
    "vllm::moe_forward": lambda x, *_: torch.empty_like(x),
    "vllm::w8a8_triton_block_scaled_mm_func": lambda a, b, *rest: a.new_empty((a.size(0), b.size(0)), dtype=rest[-1]),
    "vllm::int8_scaled_mm_func": lambda a, b, s, t, dtype, bias=None: a.new_empty((a.size(0), b.size(1)), dtype=dtype),
    "vllm::flashinfer_fp8_blockscale_gemm": lambda a, b, s: a.new_empty((a.size(0), b.size(0))),
    "vllm::dynamic_flashinfer_deepgemm_blockscale_gemm": lambda a, b, *rest: a.new_empty((a.size(0), b.size(0))),
    "vllm::bmm_fp8": lambda a, b, s, t, dtype, _: a.new_empty((*a.shape[:2], b.size(-1)), dtype=dtype),
}
_libraries = []


def define() -> None:
    """Define those operators that nobody has defined."""
    snapshot = json.loads((Path(__file__).parent / "schemas" / f"{VLLM[-1]}.json").read_text())
    schemas = [(name.partition(".")[0], schema) for name, schema in snapshot.items()]
    for namespace, schema in [*schemas, *(("vllm", schema) for schema in _OTHERS)]:
        name = schema.partition("(")[0]
        if hasattr(getattr(torch.ops, namespace), name):
            continue
        library = torch.library.Library(namespace, "FRAGMENT")
        _libraries.append(library)
        library.define(schema)
        shapes = _SHAPES.get(f"{namespace}::{name}", lambda *args, **kwargs: None)
        torch.library.register_fake(f"{namespace}::{name}", shapes, lib=library)
        if f"{namespace}::{name}" in _CPU:
            library.impl(name, _CPU[f"{namespace}::{name}"], "CPU")


define()
