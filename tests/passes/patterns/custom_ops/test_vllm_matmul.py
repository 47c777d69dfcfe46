# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.custom_ops.vllm_matmul: what vLLM's products mean, and which are left alone, for which reason."""

import pytest
import torch

from helion_compile.passes.semantics import Granularity, Matmul
from tests.support.gpus import let_products_fuse
from tests.support.vllm.calls import Calls
from tests.support.vllm.matching import BF16, FP8, fused, only, ops, reason, sites


def reason_of_fusion(graph, fusion):
    (refusal,) = [refusal for refusal in fused(graph).refusals if refusal.candidate == fusion]
    return str(refusal)


def test_product():
    calls = Calls()
    a, scale = calls.input(4, 64, dtype=FP8), calls.input(4, 1, dtype=torch.float32)
    match = only(calls.output(calls.matmul(a, scale)), Matmul)
    assert match.op == Matmul(dtype=BF16, fast_accum=True, library="cutlass")
    assert {"a": a, "a_scale": scale}.items() <= match.inputs.items()


def test_product_of_single_scales():
    calls = Calls()
    q, scale = calls.input(4, 64, dtype=FP8), calls.input(dtype=torch.float32)
    match = only(calls.output(calls.matmul(q, scale, b_scale=calls.input(dtype=torch.float32))), Matmul)
    assert (match.op.a_scales, match.op.b_scales) == (Granularity.TENSOR, Granularity.TENSOR)


def test_product_of_block_scales():
    calls = Calls()
    weight = calls.input(128, 128, dtype=FP8)
    call = calls.functional(
        ops.vllm.fp8_gemm_nt_op.default,
        q_input=calls.input(4, 128, dtype=FP8),
        input_scale=calls.input(4, 1, dtype=torch.float32),
        weight=weight,
        weight_scale=calls.input(1, 1, dtype=torch.float32),
        output=calls.empty(4, 128, dtype=BF16),
        use_deep_gemm_e8m0=True,
    )
    match = only(calls.output(*calls.items(call, 1)), Matmul)
    assert (match.op.a_scales, match.op.b_is_rows, match.op.library) == (Granularity.GROUP, True, "deepgemm")
    assert match.inputs["b"] is weight


@pytest.mark.parametrize("bias", [False, True])
def test_product_by_triton(bias):
    calls = Calls()
    q, weight = calls.input(4, 64, dtype=torch.int8), calls.input(64, 32, dtype=torch.int8)
    scales = calls.input(1, dtype=torch.float32), calls.input(32, 1, dtype=torch.float32)
    more = (calls.input(32),) if bias else ()
    graph = calls.output(calls.call(ops.vllm.int8_scaled_mm_func.default, q, weight, *scales, BF16, *more))
    assert only(graph, Matmul).op == Matmul(
        dtype=BF16, operands=torch.int8, a_scales=Granularity.TENSOR, a_scale_first=True, bias=bias, library="triton"
    )
    assert not sites(graph)


def test_what_feeds_a_product_by_triton_is_fused():
    calls = Calls()
    normed = calls.call(ops.vllm_ir.rms_norm.default, calls.input(4, 64), calls.input(64), 1e-6)
    scale = calls.input(1, dtype=torch.float32)
    memory = calls.empty(4, 64, dtype=torch.int8)
    op = ops._C.static_scaled_int8_quant.default
    (q,) = calls.items(calls.functional(op, result=memory, input=normed, scale=scale, azp=None), 1)
    weight, w_scale = calls.input(64, 32, dtype=torch.int8), calls.input(32, 1, dtype=torch.float32)
    graph = calls.output(calls.call(ops.vllm.int8_scaled_mm_func.default, q, weight, scale, w_scale, BF16))
    assert sites(graph) == ["norm_quant"]


def integer_product(zero_points, zero=None):
    calls = Calls()
    more = dict(azp_adj=calls.input(32, dtype=torch.int32), azp=zero and calls.input(*zero, dtype=torch.int32))
    call = calls.functional(
        ops._C.cutlass_scaled_mm_azp.default if zero_points else ops._C.cutlass_scaled_mm.default,
        out=calls.empty(4, 32, dtype=BF16),
        a=calls.input(4, 64, dtype=torch.int8),
        b=calls.input(64, 32, dtype=torch.int8),
        a_scales=calls.input(4, 1, dtype=torch.float32),
        b_scales=calls.input(32, 1, dtype=torch.float32),
        bias=None,
        **(more if zero_points else {}),
    )
    return calls.output(*calls.items(call, 1))


def test_product_of_integers():
    match = only(integer_product(False), Matmul)
    assert match.op == Matmul(dtype=BF16, operands=torch.int8, library="cutlass") and "zero_sums" not in match.inputs


@pytest.mark.parametrize(("zero", "inputs"), [(None, {"zero_sums"}), ((4, 1), {"zero_sums", "zero"})])
def test_product_with_zero_points(zero, inputs):
    graph = integer_product(True, zero)
    match = only(graph, Matmul)
    assert match.op == Matmul(dtype=BF16, operands=torch.int8, zero_points=True, library="cutlass")
    assert match.inputs.keys() - {"a", "b", "a_scale", "b_scale"} == inputs


def test_no_kernel_multiplies_what_has_zero_points(monkeypatch):
    let_products_fuse(monkeypatch)
    refusal = reason_of_fusion(integer_product(True), "scaled_mm")
    assert refusal == "the rows of a have zero points; without them it fuses"


def test_product_of_a_scale_a_tensor_and_one_a_column():
    calls = Calls()
    product = calls.matmul(calls.input(4, 64, dtype=FP8), calls.input(1, dtype=torch.float32))
    op = only(calls.output(product), Matmul).op
    assert (op.a_scales, op.b_scales) == (Granularity.TENSOR, Granularity.TOKEN)


def test_product_whose_blocks_only_one_operand_has_is_refused():
    calls = Calls()
    product = calls.matmul(calls.input(4, 256, dtype=FP8), calls.input(4, 2, dtype=torch.float32))
    assert reason(calls.output(product), "matmul").startswith("the scales have shapes [4, 2] and [32, 1]")


def test_product_of_other_types_is_refused():
    calls = Calls()
    product = calls.matmul(calls.input(4, 64), calls.input(4, 1, dtype=torch.float32))
    assert reason(calls.output(product), "matmul").startswith("the operands are bf16 and fp8 e4m3; two of")


def test_product_of_block_scales_that_is_returned():
    calls = Calls()
    a, weight = calls.input(4, 128, dtype=FP8), calls.input(256, 128, dtype=FP8)
    scales = calls.input(4, 1, dtype=torch.float32), calls.input(2, 1, dtype=torch.float32)
    product = calls.call(ops.vllm.w8a8_triton_block_scaled_mm_func.default, a, weight, *scales, [128, 128], BF16)
    match = only(calls.output(product), Matmul)
    blocks = dict(a_scales=Granularity.GROUP, b_scales=Granularity.GROUP, b_is_rows=True)
    assert match.op == Matmul(dtype=BF16, library="triton", **blocks)
    assert match.outputs == {"out": (product,)}


def test_product_of_batches_is_refused_and_may_read_what_is_fused():
    calls = Calls()
    x, scale = calls.input(4, 256), calls.input(1, dtype=torch.float32)
    call = calls.functional(
        ops._C.static_scaled_fp8_quant.default, result=calls.empty(4, 256, dtype=FP8), input=x, scale=scale
    )
    batch = calls.call(ops.aten.unsqueeze.default, *calls.items(call, 1), 0)
    b, b_scale = calls.input(1, 256, 32, dtype=FP8), calls.input(1, dtype=torch.float32)
    graph = calls.output(calls.call(ops.vllm.bmm_fp8.default, batch, b, scale, b_scale, BF16, "auto"))
    assert reason(graph, "matmul").startswith("vllm.bmm_fp8 multiplies batches of matrices")
    assert sites(graph) == ["quant"]
