# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.custom_ops.vllm_quantize: what vLLM's quantisers mean, and which are left alone, for which reason."""

import pytest
import torch

from helion_compile.fusions import fusions
from helion_compile.passes import FusionPass
from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Granularity, Quantize, ScaleFormat, ScaleLayout, ScaleUse
from tests.support import interpret
from tests.support.vllm.calls import Calls
from tests.support.vllm.matching import BF16, FP8, expected, only, ops, reason, sites

FLOOR = 4.35965e-06  # 1 / (448 * 512) in fp32, to six digits


def quantized(calls, op, shape, x=None, scale_stride=None, names=("result", "scale"), **kwargs):
    """An operator that quantises to memory it is given; returns its input, q and the scale."""
    x = x or calls.input(4, 256)
    q, scale = calls.empty(4, 256, dtype=FP8), calls.empty(*shape, dtype=torch.float32, stride=scale_stride)
    call = calls.functional(op, **{names[0]: q, "input": x, names[1]: scale}, **kwargs)
    return x, *calls.items(call, 1, 2)


def meaning_of_quantized(op, shape, **kwargs):
    calls = Calls()
    x, q, scale = quantized(calls, op, shape, **kwargs)
    match = only(calls.output(q, scale), Quantize)
    assert match.inputs == {"x": x} and match.outputs == {"q": (q,), "scale": (scale,)}
    return match.op


def test_a_scale_a_token():
    found = meaning_of_quantized(ops._C.dynamic_per_token_scaled_fp8_quant.default, (4, 1), scale_ub=None)
    assert found.scale_floor == pytest.approx(FLOOR, rel=1e-5)
    assert found == expected(use=ScaleUse.DIVIDE, scale_floor=found.scale_floor)


def test_a_scale_a_token_bounded_above():
    calls = Calls()
    bound = calls.input(1, dtype=torch.float32)
    x, q, scale = quantized(calls, ops._C.dynamic_per_token_scaled_fp8_quant.default, (4, 1), scale_ub=bound)
    graph = calls.output(calls.matmul(q, scale))
    assert only(graph, Quantize).op.scale_ub and only(graph, Quantize).inputs == {"x": x, "scale_ub": bound}
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
    match = only(calls.output(*calls.items(call, 1)), Quantize)
    assert match.op == expected(granularity=Granularity.TENSOR, dynamic=False, use=ScaleUse.MULTIPLY_RECIPROCAL)
    assert match.inputs == {"x": x, "scale": scale}


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
    op = only(calls.output(*calls.items(call, 1, 2)), Quantize).op
    assert op.scale_format is (ScaleFormat.UE8M0 if ue8m0 else ScaleFormat.FP32)
    assert (op.scale_layout, op.group, op.granularity) == (layout, 128, Granularity.GROUP)
    assert (op.use, op.amax_floor) == (ScaleUse.DIVIDE, 1e-10)


def test_scales_in_no_known_layout_are_refused():
    calls = Calls()
    scale = calls.empty(4, 2, dtype=torch.float32, stride=(1, 16))
    op, q = ops._C.per_token_group_fp8_quant.default, calls.empty(4, 256, dtype=FP8)
    call = calls.functional(op, input=calls.input(4, 256), output_q=q, output_s=scale, scale_ue8m0=False, **GROUP)
    assert reason(calls.output(*calls.items(call, 1, 2)), "quantize").startswith("scales of strides [1, 16]")


def integers(calls, azp):
    scale = calls.input(1, dtype=torch.float32)
    q = calls.empty(4, 256, dtype=torch.int8)
    op = ops._C.static_scaled_int8_quant.default
    return calls.functional(op, result=q, input=calls.input(4, 256), scale=scale, azp=azp)


def test_integers_by_a_scale_that_is_given():
    calls = Calls()
    op = only(calls.output(*calls.items(integers(calls, None), 1)), Quantize).op
    given = dict(dtype=torch.int8, qmax=127.0, clamp=(-128.0, 127.0), granularity=Granularity.TENSOR, dynamic=False)
    assert op == Quantize(x_dtype=BF16, scale_dtype=torch.float32, use=ScaleUse.DIVIDE, **given)


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
    reasons = [str(refusal) for refusal in match_graph(graph).refusals]
    assert [text.split()[1] for text in reasons] == ["multiplies", "packs"]
    assert sites(graph) == []


@pytest.mark.parametrize("eps", [1e-10, 1e-6])
@pytest.mark.parametrize("amax", [0.0, 1e-9, 3.0])
def test_a_power_of_two_is_made_of_the_bounded_scale(amax, eps):
    """vLLM: exp2(ceil(log2(max(max(amax, eps) / 448, 1e-10))))."""
    calls = Calls()
    q, scale = calls.empty(6, 256, dtype=FP8), calls.empty(6, 2, dtype=torch.float32)
    op, given = ops._C.per_token_group_fp8_quant.default, GROUP | dict(eps=eps)
    call = calls.functional(op, input=calls.input(6, 256), output_q=q, output_s=scale, scale_ue8m0=True, **given)
    match = only(calls.output(*calls.items(call, 1, 2)), Quantize)
    x = torch.full((6, 256), amax, dtype=torch.bfloat16)
    bounded = (x.float().abs().amax().clamp_min(eps) / 448).clamp_min(1e-10)
    assert (interpret.quantize(match.op, x)["scale"] == torch.exp2(torch.ceil(torch.log2(bounded)))).all()
