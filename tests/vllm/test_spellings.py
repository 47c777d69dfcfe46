"""passes.spellings.vllm_*: what vLLM's operators mean, and which calls of them are left alone, for which reason."""

import pytest
import torch
from calls import Calls

from helion_compile.fusions import fusions
from passes import FusionPass
from passes.meanings import Granularity, Matmul, Norm, NormRounding, Quantize, ScaleFormat, ScaleLayout, ScaleUse
from passes.reading import read

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


def test_an_operator_without_the_argument_it_had_is_refused():
    library = torch.library.Library("_C", "FRAGMENT")
    library.define("rms_norm_of_another_version(Tensor! result, Tensor input, Tensor weight, float eps) -> ()")
    torch.library.register_fake("_C::rms_norm_of_another_version", lambda *args: None, lib=library)
    from passes.spellings import vllm_norm
    from passes.spellings.opaque import OpaqueWalk
    from passes.spellings.walk import Unread

    calls = Calls()
    op = ops._C.rms_norm_of_another_version.default
    call = calls.functional(
        op, result=calls.empty(4, 64, dtype=BF16), input=calls.input(4, 64), weight=calls.input(64), eps=1e-6
    )
    (out,) = calls.items(call, 1)
    with pytest.raises(Unread, match="has no argument 'epsilon', it takes result, input, weight, eps: this version of it"):
        vllm_norm.norm(OpaqueWalk(call), "input", None, {"out": (out,), "sum": ()}, unrounded_sum=False)


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
    assert region.meaning == Matmul(dtype=BF16, fast_accum=True)
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


def test_a_product_with_zero_points_is_refused():
    calls = Calls()
    call = calls.functional(
        ops._C.cutlass_scaled_mm_azp.default,
        out=calls.empty(4, 32, dtype=BF16),
        a=calls.input(4, 64, dtype=torch.int8),
        b=calls.input(64, 32, dtype=torch.int8),
        a_scales=calls.input(4, 1, dtype=torch.float32),
        b_scales=calls.input(32, 1, dtype=torch.float32),
        azp_adj=calls.input(32, dtype=torch.int32),
        azp=calls.input(4, 1, dtype=torch.int32),
        bias=None,
    )
    assert reason(calls.output(*calls.items(call, 1)), "matmul").startswith("_C.cutlass_scaled_mm_azp, a product with zero")


def test_an_all_reduce_between_product_and_norm_stays():
    calls = Calls()
    product = calls.matmul(calls.input(4, 64, dtype=FP8), calls.input(4, 1, dtype=torch.float32), columns=64)
    reduced = calls.call(ops.vllm.all_reduce.default, product, "tp:0")
    out, total = calls.items(
        calls.call(ops.vllm_ir.fused_add_rms_norm.default, reduced, calls.input(4, 64), calls.input(64), 1e-6), 0, 1
    )
    q, scale = calls.items(
        calls.functional(
            ops._C.dynamic_per_token_scaled_fp8_quant.default,
            result=calls.empty(4, 64, dtype=FP8),
            input=out,
            scale=calls.empty(4, 1, dtype=torch.float32),
            scale_ub=None,
        ),
        1,
        2,
    )
    graph = calls.output(calls.matmul(q, scale), total)
    fusion_pass = FusionPass(fusions(), strict=True)
    fusion_pass(graph)
    assert [site.fusion for site in fusion_pass.records[0].sites] == ["rms_norm_quant"]
    (kernel,) = [node for node in graph.nodes if "helion_kernel" in str(node.target)]
    assert kernel.args[0] is reduced
