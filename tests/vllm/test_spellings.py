"""passes.spellings.vllm_*: what vLLM's operators mean, and which calls of them are left alone, for which reason."""

import pytest
import torch
from calls import Calls

from helion_compile.fusions import fusions
from passes import FusionPass
from passes.meanings import (
    Activation,
    ActivationFunction,
    ActivationRounding,
    Granularity,
    Matmul,
    Norm,
    NormRounding,
    Quantize,
    ScaleFormat,
    ScaleLayout,
    ScaleUse,
)
from passes.reading import read
from passes.spellings import SPELLINGS
from passes.spellings.opaque import UNKNOWN, name_of
from passes.spellings.vllm_operators import OPERATORS, TRIED

ops = torch.ops
FP8 = torch.float8_e4m3fn
BF16 = torch.bfloat16
FLOOR = 4.35965e-06  # 1 / (448 * 512) in fp32, to six digits
NORM = dict(eps=1e-6, x_dtype=BF16, dtype=BF16, weight_dtype=BF16, rounding=NormRounding.CAST_THEN_SCALE)


def only(graph, meaning):
    (region,) = [region for region in read(graph).regions if isinstance(region.meaning, meaning)]
    return region


def reason(graph, candidate):
    (refusal,) = [refusal for refusal in read(graph).refusals if refusal.candidate == candidate]
    return refusal.reason


def fused(graph, numerics="default"):
    fusion_pass = FusionPass(fusions(numerics), strict=True)
    fusion_pass(graph)
    (record,) = fusion_pass.records
    return record


def sites(graph, numerics="default"):
    """Names of the fusions that are made in a graph."""
    return [site.fusion for site in fused(graph, numerics).sites]


def calls_of(graph, operator):
    return [node for node in graph.nodes if operator in (name_of(node) or "")]


def reason_of_fusion(graph, fusion):
    (refusal,) = [refusal for refusal in fused(graph).refusals if refusal.candidate == fusion]
    return refusal.reason


def test_ir_norm():
    calls = Calls()
    x, weight = calls.input(4, 64), calls.input(64)
    region = only(calls.output(calls.call(ops.vllm_ir.rms_norm.default, x, weight, 1e-6)), Norm)
    assert region.meaning == Norm(**NORM)
    assert region.inputs == {"x": x, "weight": weight}


def test_ir_norm_of_the_unrounded_sum():
    calls = Calls()
    x, residual, weight = calls.input(4, 64), calls.input(4, 64), calls.input(64)
    out, total = calls.items(calls.call(ops.vllm_ir.fused_add_rms_norm.default, x, residual, weight, 1e-6), 0, 1)
    region = only(calls.output(out, total), Norm)
    assert region.meaning == Norm(**NORM, residual=True, unrounded_sum=True)
    assert region.inputs == {"x": x, "weight": weight, "residual": residual}
    assert region.outputs == {"out": (out,), "sum": (total,)}


def test_an_addition_in_front_of_a_norm_with_residual_stays_in_front():
    calls = Calls()
    x = calls.call(ops.aten.add.Tensor, calls.input(4, 64), calls.input(4, 64))
    residual, weight = calls.input(4, 64), calls.input(64)
    (out,) = calls.items(calls.call(ops.vllm_ir.fused_add_rms_norm.default, x, residual, weight, 1e-6), 0)
    assert only(calls.output(out), Norm).inputs == {"x": x, "weight": weight, "residual": residual}


def test_library_norm_of_the_rounded_sum():
    calls = Calls()
    x, residual, weight = calls.input(4, 64), calls.input(4, 64), calls.input(64)
    call = calls.functional(ops._C.fused_add_rms_norm.default, input=x, residual=residual, weight=weight, epsilon=1e-6)
    out, total = calls.items(call, 1, 2)
    region = only(calls.output(out, total), Norm)
    assert region.meaning == Norm(**NORM, residual=True, unrounded_sum=False)
    assert region.outputs == {"out": (out,), "sum": (total,)}


def test_library_norm_gives_up_the_memory_it_was_given():
    calls = Calls()
    empty = calls.empty(4, 64, dtype=BF16)
    call = calls.functional(
        ops._C.rms_norm.default, result=empty, input=calls.input(4, 64), weight=calls.input(64), epsilon=1e-6
    )
    (out,) = calls.items(call, 1)
    region = only(calls.output(out), Norm)
    assert region.meaning == Norm(**NORM)
    assert set(region.nodes) == {empty, call, out}


@pytest.mark.parametrize(
    ("weight", "rounding"), [(None, NormRounding.SCALE_THEN_CAST), (torch.float32, NormRounding.SCALE_THEN_CAST)]
)
def test_weights_that_leave_nothing_to_round_between(weight, rounding):
    calls = Calls()
    x, factor = calls.input(4, 64), calls.input(64, dtype=weight or BF16)
    call = calls.call(ops.vllm_ir.rms_norm.default, x, factor if weight else None, 1e-6)
    assert only(calls.output(call), Norm).meaning == Norm(**NORM | dict(weight_dtype=weight, rounding=rounding))


def test_a_mean_over_a_part_of_the_row_is_refused():
    calls = Calls()
    call = calls.call(ops.vllm_ir.rms_norm.default, calls.input(4, 64), calls.input(64), 1e-6, 32)
    assert reason(calls.output(call), "norm").startswith("the mean is taken over a part of the row (variance_size)")


def test_a_weight_of_another_dtype_is_refused():
    calls = Calls()
    call = calls.call(ops.vllm_ir.rms_norm.default, calls.input(4, 64), calls.input(64, dtype=torch.float16), 1e-6)
    assert reason(calls.output(call), "norm").startswith("the weight is torch.float16 and x is torch.bfloat16")


def quantized(calls, op, shape, x=None, scale_stride=None, names=("result", "scale"), **kwargs):
    """An operator that quantises to memory it is given; returns its input, q and the scale."""
    x = x or calls.input(4, 256)
    q, scale = calls.empty(4, 256, dtype=FP8), calls.empty(*shape, dtype=torch.float32, stride=scale_stride)
    call = calls.functional(op, **{names[0]: q, "input": x, names[1]: scale}, **kwargs)
    return x, *calls.items(call, 1, 2)


def meaning_of_quantized(op, shape, **kwargs):
    calls = Calls()
    x, q, scale = quantized(calls, op, shape, **kwargs)
    region = only(calls.output(q, scale), Quantize)
    assert region.inputs == {"x": x} and region.outputs == {"q": (q,), "scale": (scale,)}
    return region.meaning


def expected(**facts):
    return Quantize(x_dtype=BF16, dtype=FP8, qmax=448.0, scale_dtype=torch.float32, clamp=(-448.0, 448.0), **facts)


def test_a_scale_a_token():
    found = meaning_of_quantized(ops._C.dynamic_per_token_scaled_fp8_quant.default, (4, 1), scale_ub=None)
    assert found.scale_floor == pytest.approx(FLOOR, rel=1e-5)
    assert found == expected(use=ScaleUse.DIVIDE, scale_floor=found.scale_floor)


def test_a_scale_a_token_bounded_above():
    calls = Calls()
    bound = calls.input(1, dtype=torch.float32)
    x, q, scale = quantized(calls, ops._C.dynamic_per_token_scaled_fp8_quant.default, (4, 1), scale_ub=bound)
    graph = calls.output(calls.matmul(q, scale))
    assert only(graph, Quantize).meaning.scale_ub and only(graph, Quantize).inputs == {"x": x, "scale_ub": bound}
    fusion_pass = FusionPass(fusions(), strict=True)
    fusion_pass(graph)
    (record,) = fusion_pass.records
    assert [site.fusion for site in record.sites] == ["quant"] and "scale_ub" in record.sites[0].shapes


def test_a_scale_a_tensor():
    found = meaning_of_quantized(ops._C.dynamic_scaled_fp8_quant.default, (1,))
    assert found == expected(granularity=Granularity.TENSOR, use=ScaleUse.MULTIPLY_RECIPROCAL)


def test_a_scale_that_is_given():
    calls = Calls()
    x, scale = calls.input(4, 256), calls.input(1, dtype=torch.float32)
    call = calls.functional(
        ops._C.static_scaled_fp8_quant.default, result=calls.empty(4, 256, dtype=FP8), input=x, scale=scale
    )
    region = only(calls.output(*calls.items(call, 1)), Quantize)
    assert region.meaning == expected(granularity=Granularity.TENSOR, dynamic=False, use=ScaleUse.MULTIPLY_RECIPROCAL)
    assert region.inputs == {"x": x, "scale": scale}


GROUP = dict(
    group_size=128, eps=1e-10, fp8_min=-448.0, fp8_max=448.0, dummy_is_scale_transposed=True, dummy_is_tma_aligned=True
)


@pytest.mark.parametrize(
    ("stride", "layout"),
    [((2, 1), ScaleLayout.ROW_MAJOR), ((1, 6), ScaleLayout.COLUMN_MAJOR), ((1, 8), ScaleLayout.TMA_ALIGNED)],
)
@pytest.mark.parametrize("ue8m0", [False, True])
def test_a_scale_a_group(stride, layout, ue8m0):
    calls = Calls()
    x = calls.input(6, 256)
    q, scale = calls.empty(6, 256, dtype=FP8), calls.empty(6, 2, dtype=torch.float32, stride=stride)
    op = ops._C.per_token_group_fp8_quant.default
    call = calls.functional(op, input=x, output_q=q, output_s=scale, scale_ue8m0=ue8m0, **GROUP)
    meaning = only(calls.output(*calls.items(call, 1, 2)), Quantize).meaning
    assert meaning.scale_format is (ScaleFormat.UE8M0 if ue8m0 else ScaleFormat.FP32)
    assert (meaning.scale_layout, meaning.group, meaning.granularity) == (layout, 128, Granularity.GROUP)
    assert (meaning.use, meaning.amax_floor) == (ScaleUse.DIVIDE, 1e-10)


def test_scales_in_no_known_layout_are_refused():
    calls = Calls()
    scale = calls.empty(4, 2, dtype=torch.float32, stride=(1, 16))
    op, q = ops._C.per_token_group_fp8_quant.default, calls.empty(4, 256, dtype=FP8)
    call = calls.functional(op, input=calls.input(4, 256), output_q=q, output_s=scale, scale_ue8m0=False, **GROUP)
    assert reason(calls.output(*calls.items(call, 1, 2)), "quantize").startswith("scales of strides (1, 16)")


def fused_norm(calls, op, residual, scale_shape, scale_stride=None, **kwargs):
    x, weight = calls.input(4, 256), calls.input(256)
    call = calls.functional(
        op,
        result=calls.empty(4, 256, dtype=FP8),
        input=x,
        weight=weight,
        scale=calls.empty(*scale_shape, dtype=torch.float32, stride=scale_stride),
        epsilon=1e-6,
        scale_ub=None,
        residual=residual,
        **kwargs,
    )
    return calls.items(call, 1, 2, *((3,) if residual else ()))


@pytest.mark.parametrize("with_residual", [False, True])
def test_a_norm_that_vllm_fused_with_its_quantiser_becomes_our_kernel(with_residual):
    calls = Calls()
    residual = calls.input(4, 256) if with_residual else None
    q, scale, *total = fused_norm(calls, ops._C.rms_norm_dynamic_per_token_quant.default, residual, (4, 1))
    graph = calls.output(calls.matmul(q, scale), *total)
    fusion_pass = FusionPass(fusions(), strict=True)
    fusion_pass(graph)
    (record,) = fusion_pass.records
    assert [site.fusion for site in record.sites] == ["rms_norm_quant"]
    assert not record.refusals and not record.unclaimed
    assert not [node for node in graph.nodes if "rms_norm_dynamic" in str(node.args)]
    assert ("residual" in record.sites[0].shapes) is with_residual


def test_a_norm_fused_with_scales_a_group():
    calls = Calls()
    op = ops._C.rms_norm_per_block_quant.default
    q, scale = fused_norm(calls, op, None, (4, 2), (1, 4), group_size=128, is_scale_transposed=True)
    meaning = only(calls.output(q, scale), Quantize).meaning
    assert (meaning.group, meaning.scale_layout, meaning.scale_format) == (128, ScaleLayout.COLUMN_MAJOR, ScaleFormat.FP32)
    assert meaning.use is ScaleUse.MULTIPLY_RECIPROCAL


def test_the_second_half_of_an_operator_is_not_taken_alone():
    calls = Calls()
    q, scale = fused_norm(calls, ops._C.rms_norm_dynamic_per_token_quant.default, None, (4, 1))
    graph = calls.output(calls.matmul(q, scale))
    before = str(graph)
    fusion_pass = FusionPass([fusion for fusion in fusions() if fusion.name == "quant"], strict=True)
    fusion_pass(graph)
    (record,) = fusion_pass.records
    assert not record.sites and record.unclaimed == {"norm": 1, "quantize": 1}
    assert str(graph) == before


def test_product():
    calls = Calls()
    a, scale = calls.input(4, 64, dtype=FP8), calls.input(4, 1, dtype=torch.float32)
    region = only(calls.output(calls.matmul(a, scale)), Matmul)
    assert region.meaning == Matmul(dtype=BF16, fast_accum=True, library="cutlass")
    assert {"a": a, "a_scale": scale}.items() <= region.inputs.items()


def test_product_of_single_scales():
    calls = Calls()
    q, scale = calls.input(4, 64, dtype=FP8), calls.input(dtype=torch.float32)
    region = only(calls.output(calls.matmul(q, scale, b_scale=calls.input(dtype=torch.float32))), Matmul)
    assert (region.meaning.a_scales, region.meaning.b_scales) == (Granularity.TENSOR, Granularity.TENSOR)


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
    region = only(calls.output(*calls.items(call, 1)), Matmul)
    assert (region.meaning.a_scales, region.meaning.b_is_rows) == (Granularity.GROUP, True)
    assert region.inputs["b"] is weight


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
    region = only(integer_product(False), Matmul)
    assert region.meaning == Matmul(dtype=BF16, operands=torch.int8, library="cutlass") and "zero_sums" not in region.inputs


@pytest.mark.parametrize(("zero", "inputs"), [(None, {"zero_sums"}), ((4, 1), {"zero_sums", "zero"})])
def test_product_with_zero_points(zero, inputs):
    graph = integer_product(True, zero)
    region = only(graph, Matmul)
    assert region.meaning == Matmul(dtype=BF16, operands=torch.int8, zero_points=True, library="cutlass")
    assert region.inputs.keys() - {"a", "b", "a_scale", "b_scale"} == inputs


def test_no_kernel_multiplies_what_has_zero_points(monkeypatch):
    monkeypatch.setattr("helion_compile.fusions.scaled_mm.DEVICES", ("cpu",))
    refusal = reason_of_fusion(integer_product(True), "scaled_mm")
    assert refusal == "the rows of a have zero points; without them it fuses"


def test_product_of_a_scale_a_tensor_and_one_a_column():
    calls = Calls()
    product = calls.matmul(calls.input(4, 64, dtype=FP8), calls.input(1, dtype=torch.float32))
    meaning = only(calls.output(product), Matmul).meaning
    assert (meaning.a_scales, meaning.b_scales) == (Granularity.TENSOR, Granularity.TOKEN)


def test_product_whose_blocks_only_one_operand_has_is_refused():
    calls = Calls()
    product = calls.matmul(calls.input(4, 256, dtype=FP8), calls.input(4, 2, dtype=torch.float32))
    assert reason(calls.output(product), "matmul").startswith("found scales of shapes [4, 2] and [32, 1]")


def test_product_of_other_types_is_refused():
    calls = Calls()
    product = calls.matmul(calls.input(4, 64), calls.input(4, 1, dtype=torch.float32))
    assert reason(calls.output(product), "matmul").startswith("the operands are bf16 and fp8 e4m3; two of")


def test_product_of_block_scales_that_is_returned():
    calls = Calls()
    a, weight = calls.input(4, 128, dtype=FP8), calls.input(256, 128, dtype=FP8)
    scales = calls.input(4, 1, dtype=torch.float32), calls.input(2, 1, dtype=torch.float32)
    product = calls.call(ops.vllm.w8a8_triton_block_scaled_mm_func.default, a, weight, *scales, [128, 128], BF16)
    region = only(calls.output(product), Matmul)
    assert region.meaning == Matmul(dtype=BF16, a_scales=Granularity.GROUP, b_scales=Granularity.GROUP, b_is_rows=True)
    assert region.outputs == {"out": (product,)}


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


def activation(calls, op, written, width=64, dtype=BF16):
    """An activation of vLLM's library; its input and its result [4, width]."""
    x = calls.input(4, 128, dtype=dtype)
    call = calls.functional(op, **{written: calls.empty(4, width, dtype=dtype), "input": x})
    return x, *calls.items(call, 1)


GATED = dict(gated=True, joined=True, x_dtype=BF16, dtype=BF16, rounding=ActivationRounding.FUNCTION)


@pytest.mark.parametrize(
    ("op", "written", "function"),
    [
        (ops._C.silu_and_mul.default, "result", ActivationFunction.SILU),
        (ops._C.gelu_and_mul.default, "out", ActivationFunction.GELU),
        (ops._C.gelu_tanh_and_mul.default, "out", ActivationFunction.GELU_TANH),
    ],
)
def test_activation_and_product(op, written, function):
    calls = Calls()
    x, out = activation(calls, op, written)
    region = only(calls.output(out), Activation)
    assert region.meaning == Activation(function=function, **GATED)
    assert region.inputs == {"x": x} and region.outputs == {"out": (out,)}


def test_activation_in_fp32_rounds_once():
    calls = Calls()
    _, out = activation(calls, ops._C.silu_and_mul.default, "result", dtype=torch.float32)
    assert only(calls.output(out), Activation).meaning.rounding is ActivationRounding.RESULT


def test_activation_of_one_input():
    calls = Calls()
    _, out = activation(calls, ops._C.relu_squared.default, "out", width=128)
    meaning = only(calls.output(out), Activation).meaning
    assert (meaning.function, meaning.gated, meaning.joined) == (ActivationFunction.RELU_SQUARED, False, False)
    assert meaning.rounding is ActivationRounding.RESULT


def test_activation_of_vllms_ir():
    calls = Calls()
    out = calls.call(ops.vllm_ir.silu_and_mul.default, calls.input(4, 128))
    assert only(calls.output(out), Activation).meaning == Activation(function=ActivationFunction.SILU, **GATED)


def test_activation_of_rows_of_another_length_is_refused():
    calls = Calls()
    _, out = activation(calls, ops._C.silu_and_mul.default, "result", width=32)
    assert reason(calls.output(out), "activation").startswith("input is [4, 128] and the result [4, 32]")


def test_an_activation_and_its_quantiser_become_one_kernel_that_reads_both_halves_where_they_lie():
    calls = Calls()
    x, out = activation(calls, ops._C.silu_and_mul.default, "result")
    q = calls.empty(4, 64, dtype=FP8)
    scale = calls.empty(4, 1, dtype=torch.float32)
    op = ops._C.dynamic_per_token_scaled_fp8_quant.default
    q, scale = calls.items(calls.functional(op, result=q, input=out, scale=scale, scale_ub=None), 1, 2)
    graph = calls.output(calls.matmul(q, scale))
    assert sites(graph) == ["activation_quant"]
    (kernel,) = [node for node in graph.nodes if "helion_kernel" in str(node.target)]
    halves = [(half.target, *half.args) for half in kernel.args[:2]]
    assert halves == [(ops.aten.slice.Tensor, x, 1, 0, 64), (ops.aten.slice.Tensor, x, 1, 64, 128)]
    assert not calls_of(graph, "silu")


def test_an_activation_that_others_read_too_is_still_given():
    calls = Calls()
    _, out = activation(calls, ops._C.silu_and_mul.default, "result")
    op = ops._C.static_scaled_fp8_quant.default
    scale = calls.input(1, dtype=torch.float32)
    (q,) = calls.items(calls.functional(op, result=calls.empty(4, 64, dtype=FP8), input=out, scale=scale), 1)
    graph = calls.output(calls.matmul(q, scale), out)
    assert sites(graph) == ["activation_quant"]
    assert [str(node.meta["val"].dtype) for node in graph.output_node().args[0]] == ["torch.bfloat16"] * 2


def test_exact_kernel_behind_vllms_activation_gives_its_bits():
    aten, cast = ops.aten, ops.prims.convert_element_type.default

    def graph():
        calls = Calls()
        _, out = activation(calls, ops._C.silu_and_mul.default, "result")
        wide = calls.call(cast, out, torch.float32)
        amax = calls.call(aten.amax.default, calls.call(aten.abs.default, wide), [-1], True)
        scale = calls.call(aten.div.Tensor, amax, 448.0)
        bounded = calls.call(aten.clamp.default, calls.call(aten.div.Tensor, wide, scale), -448.0, 448.0)
        return calls.output(calls.call(cast, bounded, FP8), scale)

    ours, theirs = graph(), graph()
    assert sites(ours, "exact") == ["activation_quant"]
    x = torch.randn(4, 128, generator=torch.Generator().manual_seed(0)).to(BF16)
    found, expected = (torch.fx.Interpreter(torch.fx.GraphModule({}, each)).run(x) for each in (ours, theirs))
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(found, expected, strict=True))


def test_an_activation_that_vllm_fused_with_a_given_scale_becomes_our_kernel():
    calls = Calls()
    scale = calls.input(1, dtype=torch.float32)
    call = calls.functional(
        ops._C.silu_and_mul_quant.default, result=calls.empty(4, 64, dtype=FP8), input=calls.input(4, 128), scale=scale
    )
    graph = calls.output(calls.matmul(*calls.items(call, 1), scale))
    assert only(graph, Activation).meaning == Activation(function=ActivationFunction.SILU, **GATED)
    assert only(graph, Quantize).meaning == expected(
        granularity=Granularity.TENSOR, dynamic=False, use=ScaleUse.MULTIPLY_RECIPROCAL
    )
    assert sites(graph) == ["activation_quant"]
    assert not calls_of(graph, "silu")


def test_an_activation_fused_with_scales_a_group_says_why_it_stays():
    calls = Calls()
    call = calls.functional(
        ops._C.silu_and_mul_per_block_quant.default,
        out=calls.empty(4, 256, dtype=FP8),
        input=calls.input(4, 512),
        scales=calls.empty(4, 2, dtype=torch.float32),
        group_size=128,
        scale_ub=None,
        is_scale_transposed=False,
    )
    graph = calls.output(*calls.items(call, 1, 2))
    assert "bounds its scales from below by 1e-10 in some versions" in reason(graph, "activation")
    assert sites(graph) == []


@pytest.mark.parametrize("with_residual", [False, True])
def test_a_norm_that_vllm_fused_with_a_given_scale_becomes_our_kernel(with_residual):
    calls = Calls()
    scale = calls.input(1, dtype=torch.float32)
    op = ops._C.fused_add_rms_norm_static_fp8_quant if with_residual else ops._C.rms_norm_static_fp8_quant
    call = calls.functional(
        op.default,
        result=calls.empty(4, 256, dtype=FP8),
        input=calls.input(4, 256),
        weight=calls.input(256),
        scale=scale,
        epsilon=1e-6,
        **({"residual": calls.input(4, 256)} if with_residual else {}),
    )
    q, *total = calls.items(call, 1, *((2,) if with_residual else ()))
    graph = calls.output(calls.matmul(q, scale), *total)
    assert only(graph, Norm).meaning == Norm(**NORM, residual=with_residual)
    assert sites(graph) == ["rms_norm_quant"]
    assert not calls_of(graph, "rms_norm")


def integers(calls, azp):
    scale = calls.input(1, dtype=torch.float32)
    q = calls.empty(4, 256, dtype=torch.int8)
    op = ops._C.static_scaled_int8_quant.default
    return calls.functional(op, result=q, input=calls.input(4, 256), scale=scale, azp=azp)


def test_integers_by_a_scale_that_is_given():
    calls = Calls()
    meaning = only(calls.output(*calls.items(integers(calls, None), 1)), Quantize).meaning
    given = dict(dtype=torch.int8, qmax=127.0, clamp=(-128.0, 127.0), granularity=Granularity.TENSOR, dynamic=False)
    assert meaning == Quantize(x_dtype=BF16, scale_dtype=torch.float32, use=ScaleUse.DIVIDE, **given)


def test_integers_by_a_zero_point_that_is_given_are_refused():
    calls = Calls()
    graph = calls.output(*calls.items(integers(calls, calls.input(1, dtype=torch.int32)), 1))
    assert reason(graph, "quantize").startswith("_C.static_scaled_int8_quant is given a zero point")


def test_quantisers_that_are_known_and_not_read():
    calls = Calls()
    result, scale = calls.empty(4, 256, dtype=torch.int8), calls.empty(4, 1, dtype=torch.float32)
    op = ops._C.dynamic_scaled_int8_quant.default
    integer = calls.functional(op, result=result, input=calls.input(4, 256), scale=scale, azp=None)
    packed = calls.functional(
        ops._C.per_token_group_fp8_quant_packed.default,
        input=calls.input(4, 256),
        output_q=calls.empty(4, 256, dtype=FP8),
        output_s_packed=calls.empty(4, 1, dtype=torch.int32),
        group_size=128,
        eps=1e-10,
        fp8_min=-448.0,
        fp8_max=448.0,
    )
    graph = calls.output(*calls.items(integer, 1, 2), *calls.items(packed, 1, 2))
    reasons = [refusal.reason for refusal in read(graph).refusals]
    assert [text.split()[1] for text in reasons] == ["multiplies", "packs"]
    assert sites(graph) == []


def test_embeddings_of_vllms_library_say_why_they_stay():
    calls = Calls()
    call = calls.functional(
        ops._C.rotary_embedding.default,
        positions=calls.input(4, dtype=torch.int64),
        query=calls.input(4, 256),
        key=calls.input(4, 64),
        head_size=64,
        cos_sin_cache=calls.input(128, 64),
        is_neox=True,
        rope_dim_offset=0,
        inverse=False,
    )
    graph = calls.output(*calls.items(call, 1, 2))
    assert reason(graph, "rope").startswith("_C.rotary_embedding turns queries and keys in one call")


# --- other versions ---------------------------------------------------------------------------------------------------


def test_every_operator_that_is_read_is_in_the_table():
    anchors = set().union(*(spelling.ANCHORS for spelling in SPELLINGS if spelling.__name__.rpartition(".")[2][:4] == "vllm"))
    assert anchors == OPERATORS.keys()
    assert all(set(operator.seen) <= set(TRIED) for operator in OPERATORS.values())


@pytest.mark.parametrize("name", OPERATORS)
def test_the_table_names_all_arguments(name):
    namespace, operator, overload = name.split(".")
    schema = getattr(getattr(getattr(ops, namespace), operator), overload)._schema
    assert {argument.name for argument in schema.arguments} == set(OPERATORS[name].arguments.split())


@pytest.fixture
def another_version(monkeypatch):
    """Defines an operator as some version of vLLM might have it, and lets it be read as if it had another one's name."""

    def define(schema, name):
        library = torch.library.Library("another_version", "FRAGMENT")
        libraries.append(library)
        library.define(schema)
        operator = schema.partition("(")[0]
        torch.library.register_fake(f"another_version::{operator}", lambda *args, **kwargs: None, lib=library)
        op = getattr(ops.another_version, operator).default
        ours = lambda node: name if name_of(node) == str(op) else name_of(node)  # noqa: E731
        for module in ("passes.reading", "passes.spellings.vllm_operators", "passes.spellings.vllm_norm"):
            monkeypatch.setattr(f"{module}.name_of", ours)
        return op

    libraries = []
    yield define
    for library in libraries:
        library._destroy()


def normed(op, weight="weight", **more):
    calls = Calls()
    result, x = calls.empty(4, 64, dtype=BF16), calls.input(4, 64)
    call = calls.functional(op, result=result, input=x, **{weight: calls.input(64)}, epsilon=1e-6, **more)
    return calls.output(*calls.items(call, 1))


def test_an_operator_without_the_argument_it_had_is_refused(another_version):
    op = another_version("rms_norm(Tensor! result, Tensor input, Tensor gamma, float epsilon) -> ()", "_C.rms_norm.default")
    assert reason(normed(op, "gamma"), "norm") == f"another_version.rms_norm is given gamma=arg2: {UNKNOWN}"


@pytest.mark.parametrize(("given", "read_as"), [(False, 1), (True, 0)])
def test_a_new_argument_may_only_have_its_default_value(another_version, given, read_as):
    schema = "rms_norm(Tensor! result, Tensor input, Tensor? weight, float epsilon, bool gemma=False) -> ()"
    graph = normed(another_version(schema, "_C.rms_norm.default"), gemma=given)
    assert len(read(graph).regions) == read_as
    if given:
        assert reason(graph, "norm") == f"another_version.rms_norm is given gemma=True: {UNKNOWN}"


def test_an_operator_that_writes_elsewhere_is_refused(another_version):
    op = another_version("rms_norm(Tensor result, Tensor input, Tensor! weight, float epsilon) -> ()", "_C.rms_norm.default")
    assert reason(normed(op), "norm").endswith(f"was known to write to 'result', and does not: {UNKNOWN}")


def test_an_operator_of_another_name_is_not_found(another_version):
    op = another_version("norm_rms(Tensor! result, Tensor input, Tensor? weight, float epsilon) -> ()", "_C.norm_rms.default")
    graph = normed(op)
    before = str(graph)
    assert sites(graph) == [] and str(graph) == before
