"""vLLM's operators as far as its graphs name them: schemas, results' shapes, and of some what they compute, for a CPU.

The schemas are those of vLLM's own libraries (``_C_stable_libtorch`` of 0.26.0; what it does not have, of 0.31.0) and of its
Python sources, with a layer's name as a string.  Where vLLM itself is
imported and has defined an operator, that one stays.
"""

from __future__ import annotations

import contextlib

import torch

# vLLM, where there is one, defines its operators once, and does not look whether they are there.
with contextlib.suppress(ModuleNotFoundError):
    import vllm.compilation.passes.pass_manager
    import vllm.config
    import vllm.ir.ops  # noqa: F401

_LORA = (
    "Tensor token_lora_mapping, Tensor token_indices_sorted_by_lora_ids, Tensor num_tokens_per_lora, "
    "Tensor lora_token_start_loc, Tensor lora_ids, Tensor no_lora_flag_cpu, Tensor num_active_loras"
)
_SCHEMAS = {
    "vllm_ir": [
        "rms_norm(Tensor x, Tensor? weight, float epsilon, SymInt? variance_size=None) -> Tensor",
        "fused_add_rms_norm(Tensor x, Tensor x_residual, Tensor? weight, float epsilon, SymInt? variance_size=None) "
        "-> (Tensor, Tensor)",
        "silu_and_mul(Tensor x) -> Tensor",
    ],
    "_C": [
        "cutlass_scaled_mm(Tensor! out, Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, Tensor? bias) -> ()",
        "cutlass_scaled_mm_azp(Tensor! out, Tensor a, Tensor b, Tensor a_scales, Tensor b_scales, Tensor azp_adj, "
        "Tensor? azp, Tensor? bias) -> ()",
        "dynamic_per_token_scaled_fp8_quant(Tensor! result, Tensor input, Tensor! scale, Tensor? scale_ub) -> ()",
        "dynamic_scaled_fp8_quant(Tensor! result, Tensor input, Tensor! scale) -> ()",
        "static_scaled_fp8_quant(Tensor! result, Tensor input, Tensor scale, int[]? group_shape=None) -> ()",
        "per_token_group_fp8_quant(Tensor input, Tensor! output_q, Tensor! output_s, int group_size, float eps, "
        "float fp8_min, float fp8_max, bool scale_ue8m0, bool dummy_is_scale_transposed, bool dummy_is_tma_aligned) -> ()",
        "rms_norm(Tensor! result, Tensor input, Tensor? weight, float epsilon) -> ()",
        "fused_add_rms_norm(Tensor! input, Tensor! residual, Tensor? weight, float epsilon) -> ()",
        "rms_norm_dynamic_per_token_quant(Tensor! result, Tensor input, Tensor weight, Tensor! scale, float epsilon, "
        "Tensor? scale_ub, Tensor!? residual) -> ()",
        "rms_norm_per_block_quant(Tensor! result, Tensor input, Tensor weight, Tensor! scale, float epsilon, "
        "Tensor? scale_ub, Tensor!? residual, int group_size, bool is_scale_transposed) -> ()",
        "rms_norm_static_fp8_quant(Tensor! result, Tensor input, Tensor weight, Tensor scale, float epsilon) -> ()",
        "fused_add_rms_norm_static_fp8_quant(Tensor! result, Tensor input, Tensor! residual, Tensor weight, Tensor scale, "
        "float epsilon) -> ()",
        "fused_qk_norm_rope(Tensor! qkv, int num_heads_q, int num_heads_k, int num_heads_v, int head_dim, float eps, "
        "Tensor q_weight, Tensor k_weight, Tensor cos_sin_cache, bool is_neox, Tensor position_ids, "
        "int forced_token_heads_per_warp=-1) -> ()",
        "rotary_embedding(Tensor positions, Tensor! query, Tensor!? key, int head_size, Tensor cos_sin_cache, bool is_neox, "
        "int rope_dim_offset=0, bool inverse=False) -> ()",
        "silu_and_mul(Tensor! result, Tensor input) -> ()",
        "gelu_and_mul(Tensor! out, Tensor input) -> ()",
        "gelu_tanh_and_mul(Tensor! out, Tensor input) -> ()",
        "relu_squared(Tensor! out, Tensor input) -> ()",
        "static_scaled_int8_quant(Tensor! result, Tensor input, Tensor scale, Tensor? azp) -> ()",
        "dynamic_scaled_int8_quant(Tensor! result, Tensor input, Tensor! scale, Tensor!? azp) -> ()",
        "per_token_group_fp8_quant_packed(Tensor input, Tensor! output_q, Tensor! output_s_packed, int group_size, float eps, "
        "float fp8_min, float fp8_max) -> ()",
        "silu_and_mul_quant(Tensor! result, Tensor input, Tensor scale) -> ()",
        "silu_and_mul_per_block_quant(Tensor! out, Tensor input, Tensor! scales, int group_size, Tensor? scale_ub=None, "
        "bool is_scale_transposed=False) -> ()",
    ],
    "vllm": [
        "fp8_gemm_nt_op(Tensor q_input, Tensor input_scale, Tensor weight, Tensor weight_scale, Tensor! output, "
        "bool use_deep_gemm_e8m0) -> ()",
        "w8a8_triton_block_scaled_mm_func(Tensor qx, Tensor weight, Tensor x_scale, Tensor weight_scale, SymInt[] block_size, "
        "ScalarType output_dtype) -> Tensor",
        "bmm_fp8(Tensor A, Tensor B, Tensor A_scale, Tensor B_scale, ScalarType dtype, str backend) -> Tensor",
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
    ],
}


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
    "vllm_ir::silu_and_mul": lambda x: x.new_empty((*x.shape[:-1], x.size(-1) // 2)),
    "vllm::all_reduce": lambda x, *_: torch.empty_like(x),
    "vllm::reduce_scatter": lambda x, dim, world, _: x.new_empty((x.size(0) // world, *x.shape[1:])),
    "vllm::all_gather": lambda x, dim, world, _: x.new_empty((x.size(0) * world, *x.shape[1:])),
    "vllm::unified_kv_cache_update": lambda key, *_: key.new_empty(0),
    "vllm::moe_forward": lambda x, *_: torch.empty_like(x),
    "vllm::w8a8_triton_block_scaled_mm_func": lambda a, b, *rest: a.new_empty((a.size(0), b.size(0)), dtype=rest[-1]),
    "vllm::bmm_fp8": lambda a, b, s, t, dtype, _: a.new_empty((*a.shape[:2], b.size(-1)), dtype=dtype),
}
_libraries = []


def define() -> None:
    """Define those operators that nobody has defined."""
    for namespace, schemas in _SCHEMAS.items():
        library = torch.library.Library(namespace, "FRAGMENT")
        _libraries.append(library)
        for schema in schemas:
            name = schema.partition("(")[0]
            if hasattr(getattr(torch.ops, namespace), name):
                continue
            library.define(schema)
            shapes = _SHAPES.get(f"{namespace}::{name}", lambda *args, **kwargs: None)
            torch.library.register_fake(f"{namespace}::{name}", shapes, lib=library)
            if f"{namespace}::{name}" in _CPU:
                library.impl(name, _CPU[f"{namespace}::{name}"], "CPU")


define()
