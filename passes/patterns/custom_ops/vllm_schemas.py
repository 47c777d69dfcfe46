"""vLLM's operators that are read: how each is spelled, and in which versions it was seen so.

Another version of vLLM is tried.  An operator that is not there is not found; one that lacks an argument, or is given one that
is not in the table and has not its default value, may compute something else and is refused (:class:`VllmWalk`).
"""

from __future__ import annotations

from typing import NamedTuple

from torch.fx import Node

from helion_compile.passes.patterns.custom_ops.op_call import UNKNOWN, OpaqueWalk, name_of

__all__ = ["OPERATORS", "TRIED", "VllmWalk"]

TRIED = ("0.26.0", "0.31.0")  # versions whose schemas the table was compared with


class _Operator(NamedTuple):
    arguments: str
    seen: tuple[str, ...] = TRIED


_NEWER = TRIED[1:]
_SCALED_MM = "out a b a_scales b_scales bias"
_GROUPS = "input output_q group_size eps fp8_min fp8_max"
_NORM_QUANT = "result input weight scale epsilon"

OPERATORS = {
    "vllm_ir.rms_norm.default": _Operator("x weight epsilon variance_size"),
    "vllm_ir.fused_add_rms_norm.default": _Operator("x x_residual weight epsilon variance_size"),
    "vllm_ir.silu_and_mul.default": _Operator("x", ()),  # in vLLM's sources, in none of these versions
    "_C.rms_norm.default": _Operator("result input weight epsilon"),
    "_C.fused_add_rms_norm.default": _Operator("input residual weight epsilon"),
    "_C.rms_norm_static_fp8_quant.default": _Operator(_NORM_QUANT),
    "_C.fused_add_rms_norm_static_fp8_quant.default": _Operator(f"{_NORM_QUANT} residual"),
    "_C.rms_norm_dynamic_per_token_quant.default": _Operator(f"{_NORM_QUANT} scale_ub residual"),
    "_C.rms_norm_per_block_quant.default": _Operator(f"{_NORM_QUANT} scale_ub residual group_size is_scale_transposed"),
    "_C.silu_and_mul.default": _Operator("result input"),
    "_C.gelu_and_mul.default": _Operator("out input", _NEWER),
    "_C.gelu_tanh_and_mul.default": _Operator("out input", _NEWER),
    "_C.relu_squared.default": _Operator("out input", _NEWER),
    "_C.silu_and_mul_quant.default": _Operator("result input scale"),
    "_C.silu_and_mul_per_block_quant.default": _Operator("out input scales group_size scale_ub is_scale_transposed"),
    "_C.dynamic_per_token_scaled_fp8_quant.default": _Operator("result input scale scale_ub"),
    "_C.dynamic_scaled_fp8_quant.default": _Operator("result input scale"),
    "_C.static_scaled_fp8_quant.default": _Operator("result input scale group_shape"),
    "_C.static_scaled_int8_quant.default": _Operator("result input scale azp", _NEWER),
    "_C.dynamic_scaled_int8_quant.default": _Operator("result input scale azp", _NEWER),
    "_C.per_token_group_fp8_quant.default": _Operator(
        f"{_GROUPS} output_s scale_ue8m0 dummy_is_scale_transposed dummy_is_tma_aligned"
    ),
    "_C.per_token_group_fp8_quant_packed.default": _Operator(f"{_GROUPS} output_s_packed", _NEWER),
    "_C.cutlass_scaled_mm.default": _Operator(_SCALED_MM),
    "_C.cutlass_scaled_mm_azp.default": _Operator(f"{_SCALED_MM} azp_adj azp"),
    "vllm.fp8_gemm_nt_op.default": _Operator("q_input input_scale weight weight_scale output use_deep_gemm_e8m0"),
    "vllm.w8a8_triton_block_scaled_mm_func.default": _Operator(
        "qx weight x_scale weight_scale block_size output_dtype", _NEWER
    ),
    "vllm.bmm_fp8.default": _Operator("A B A_scale B_scale dtype backend", _NEWER),
    "_C.rotary_embedding.default": _Operator("positions query key head_size cos_sin_cache is_neox rope_dim_offset inverse"),
    "_C.fused_qk_norm_rope.default": _Operator(
        "qkv num_heads_q num_heads_k num_heads_v head_dim eps q_weight k_weight cos_sin_cache is_neox position_ids "
        "forced_token_heads_per_warp"
    ),
}


class VllmWalk(OpaqueWalk):
    """A call of one of ``OPERATORS``.

    Raises (here and in any method): Unread, where the operator is not the one that the table knows.
    """

    def __init__(self, anchor: Node):
        super().__init__(anchor)
        known = OPERATORS[name_of(anchor)].arguments.split()
        for argument in self.op._schema.arguments:
            value = self.arguments[argument.name]
            if argument.name not in known and not (argument.has_default_value() and value == argument.default_value):
                self.fail(anchor, f"{self.name} is given {argument.name}={value!r}: {UNKNOWN}")
