# SPDX-License-Identifier: Apache-2.0
"""vLLM's operators, one row each: what they compute, their arguments, and the versions that have them so.

To support another version, see ``docs/extending.md``: a snapshot of its schemas (``tests/support/vllm/schemas``), its number
in ``compat``, and here a row for each operator that has another form in it.  A version that nobody compared is tried.  An
operator that is not there is not found; one that has the form of no row may compute something else, and stays.
"""

from __future__ import annotations

from functools import partial

from helion_compile.passes.compat import VLLM
from helion_compile.passes.patterns.custom_ops.op_call import INSIDE
from helion_compile.passes.patterns.custom_ops.operator_table import (
    Builder,
    OperatorPattern,
    OperatorRow,
    make_table,
    refuse_operator,
)
from helion_compile.passes.patterns.custom_ops.vllm_activation import build_activation
from helion_compile.passes.patterns.custom_ops.vllm_matmul import (
    build_block_scaled_mm,
    build_cutlass_scaled_mm,
    build_triton_scaled_mm,
)
from helion_compile.passes.patterns.custom_ops.vllm_norm import build_norm
from helion_compile.passes.patterns.custom_ops.vllm_quantize import (
    build_activation_block,
    build_per_block,
    build_per_group,
    build_per_tensor,
    build_per_token,
    build_static,
)
from helion_compile.passes.semantics import ActivationFunction

__all__ = ["OPERATORS", "QUANTISING_MATMULS", "activation", "matmul", "norm", "quantize", "rope"]

# GEMMs that take x in 16 bits and quantise it themselves: no quantiser is there to fuse.
QUANTISING_MATMULS = ("vllm.flashinfer_fp8_blockscale_gemm", "vllm.dynamic_flashinfer_deepgemm_blockscale_gemm")


def _row(name: str, arguments: str, versions: tuple[str, ...] = VLLM, **builders: Builder) -> OperatorRow:
    return OperatorRow(name, arguments, builders, versions)


_NORM_QUANT = "result! input weight scale! epsilon scale_ub residual!"
_GROUPS = "group_size eps fp8_min fp8_max"
_quantized_norm = partial(build_norm, x="input", out=INSIDE)
_quantising_matmul = partial(
    refuse_operator,
    found="takes x in 16 bits and quantises it itself",
    remedy="behind a quantiser, as with VLLM_BLOCKSCALE_FP8_GEMM_FLASHINFER=0, it can be read",
)
_rope_in_place = partial(
    refuse_operator,
    found="rotates queries and keys in one call, where they lie, and is one kernel as it is",
    remedy="vLLM's native code, without custom operators, can be read",
)

OPERATORS = make_table(
    [
        # RMSNorm
        _row(
            "vllm_ir.rms_norm",
            "x weight epsilon variance_size",
            norm=partial(build_norm, x="x", out=0),
        ),
        _row(
            "vllm_ir.fused_add_rms_norm",
            "x x_residual weight epsilon variance_size",
            norm=partial(build_norm, x="x", residual="x_residual", out=0, sum=1, unrounded_sum=True),
        ),
        _row(
            "_C.rms_norm",
            "result! input weight epsilon",
            norm=partial(build_norm, x="input", out="result", memory="result"),
        ),
        _row(
            "_C.fused_add_rms_norm",
            "input! residual! weight epsilon",
            norm=partial(build_norm, x="input", residual="residual", out="input", sum="residual"),
        ),
        # RMSNorm and quantiser
        _row(
            "_C.rms_norm_static_fp8_quant",
            "result! input weight scale epsilon",
            norm=partial(_quantized_norm, memory="result"),
            quantize=partial(build_static, inside=True),
        ),
        _row(
            "_C.fused_add_rms_norm_static_fp8_quant",
            "result! input residual! weight scale epsilon",
            norm=partial(_quantized_norm, residual="residual", sum="residual", memory="result"),
            quantize=partial(build_static, inside=True),
        ),
        _row(
            "_C.rms_norm_dynamic_per_token_quant",
            _NORM_QUANT,
            norm=partial(_quantized_norm, residual="residual", sum="residual", unrounded_sum=True, memory="result scale"),
            quantize=partial(build_per_token, inside=True),
        ),
        _row(
            "_C.rms_norm_per_block_quant",
            f"{_NORM_QUANT} group_size is_scale_transposed",
            norm=partial(_quantized_norm, residual="residual", sum="residual", unrounded_sum=True, memory="result scale"),
            quantize=build_per_block,
        ),
        # Activations
        _row(
            "_C.silu_and_mul",
            "result! input",
            activation=partial(build_activation, function=ActivationFunction.SILU, written="result"),
        ),
        _row(
            "_C.gelu_and_mul",
            "out! input",
            activation=partial(build_activation, function=ActivationFunction.GELU, written="out"),
        ),
        _row(
            "_C.gelu_tanh_and_mul",
            "out! input",
            activation=partial(build_activation, function=ActivationFunction.GELU_TANH, written="out"),
        ),
        _row(
            "_C.relu_squared",
            "out! input",
            activation=partial(build_activation, function=ActivationFunction.RELU_SQUARED, written="out", gated=False),
        ),
        # Activation and quantiser
        _row(
            "_C.silu_and_mul_quant",
            "result! input scale",
            activation=partial(build_activation, function=ActivationFunction.SILU, written="result", inside=True),
            quantize=partial(build_static, inside=True),
        ),
        _row(
            "_C.silu_and_mul_per_block_quant",
            "out! input scales! group_size scale_ub is_scale_transposed",
            activation=partial(
                build_activation,
                function=ActivationFunction.SILU,
                written="out",
                inside=True,
                unrounded=True,
                memory="scales",
            ),
            quantize=build_activation_block,
        ),
        # Quantisers
        _row(
            "_C.dynamic_per_token_scaled_fp8_quant",
            "result! input scale! scale_ub",
            quantize=build_per_token,
        ),
        _row(
            "_C.dynamic_scaled_fp8_quant",
            "result! input scale!",
            quantize=build_per_tensor,
        ),
        _row(
            "_C.static_scaled_fp8_quant",
            "result! input scale group_shape",
            quantize=build_static,
        ),
        _row(
            "_C.static_scaled_int8_quant",
            "result! input scale azp",
            quantize=partial(build_static, int8=True),
        ),
        _row(
            "_C.dynamic_scaled_int8_quant",
            "result! input scale! azp!",
            quantize=partial(
                refuse_operator,
                found="multiplies by 127 / amax in one division, which is another last bit than a reciprocal gives",
                remedy="int8 by a scale that is given can be read",
            ),
        ),
        _row(
            "_C.per_token_group_fp8_quant",
            f"input output_q! output_s! {_GROUPS} scale_ue8m0 dummy_is_scale_transposed dummy_is_tma_aligned",
            quantize=build_per_group,
        ),
        _row(
            "_C.per_token_group_fp8_quant_packed",
            f"input output_q! output_s_packed! {_GROUPS}",
            quantize=partial(refuse_operator, found="packs four scales into an int32", remedy="fp32 scales can be read"),
        ),
        # GEMMs
        _row(
            "_C.cutlass_scaled_mm",
            "out! a b a_scales b_scales bias",
            matmul=build_cutlass_scaled_mm,
        ),
        _row(
            "_C.cutlass_scaled_mm_azp",
            "out! a b a_scales b_scales azp_adj azp bias",
            matmul=partial(build_cutlass_scaled_mm, zero_points=True),
        ),
        _row(
            "vllm.fp8_gemm_nt_op",
            "q_input input_scale weight weight_scale output! use_deep_gemm_e8m0",
            matmul=partial(
                build_block_scaled_mm,
                a="q_input",
                a_scale="input_scale",
                b_scale="weight_scale",
                out="output",
                library="deepgemm",
            ),
        ),
        _row(
            "vllm.w8a8_triton_block_scaled_mm_func",
            "qx weight x_scale weight_scale block_size output_dtype",
            matmul=partial(build_block_scaled_mm, a="qx", a_scale="x_scale", b_scale="weight_scale", out=0, library="triton"),
        ),
        _row(
            "vllm.int8_scaled_mm_func",
            "qx weight x_scale weight_scale output_dtype bias",
            ("0.33.0",),
            matmul=build_triton_scaled_mm,
        ),
        _row(
            QUANTISING_MATMULS[0],
            "input weight weight_scale",
            matmul=_quantising_matmul,
        ),
        _row(
            QUANTISING_MATMULS[1],
            "input weight weight_scale group_size use_deep_gemm_e8m0",
            matmul=_quantising_matmul,
        ),
        _row(
            "vllm.bmm_fp8",
            "A B A_scale B_scale dtype backend",
            matmul=partial(
                refuse_operator, found="multiplies batches of matrices", remedy="a product of two matrices can be read"
            ),
        ),
        # RoPE; vLLM's native code is matched by ``aten.rope``
        _row(
            "_C.rotary_embedding",
            "positions query! key! head_size cos_sin_cache is_neox rope_dim_offset inverse",
            rope=_rope_in_place,
        ),
        _row(
            "_C.fused_qk_norm_rope",
            "qkv! num_heads_q num_heads_k num_heads_v head_dim eps q_weight k_weight cos_sin_cache is_neox position_ids "
            "forced_token_heads_per_warp",
            rope=_rope_in_place,
        ),
    ]
)

norm, activation, rope, quantize, matmul = (
    OperatorPattern(name, OPERATORS) for name in ("norm", "activation", "rope", "quantize", "matmul")
)
