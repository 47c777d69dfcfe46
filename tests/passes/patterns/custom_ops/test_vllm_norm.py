# SPDX-License-Identifier: Apache-2.0
"""vllm_norm: what vLLM's norms mean, alone or fused with a quantiser, and which are left alone, and why."""

import pytest
import torch

from helion_compile.fusions import fusions
from helion_compile.passes import FusionPass
from helion_compile.passes.semantics import Norm, NormRounding, Quantize, ScaleFormat, ScaleLayout, ScaleUse
from tests.support.vllm.calls import Calls
from tests.support.vllm.matching import BF16, FP8, calls_of, only, ops, reason, sites

NORM = dict(eps=1e-6, x_dtype=BF16, dtype=BF16, weight_dtype=BF16, rounding=NormRounding.CAST_THEN_SCALE)


def test_ir_norm():
    calls = Calls()
    x, weight = calls.input(4, 64), calls.input(64)
    match = only(calls.output(calls.call(ops.vllm_ir.rms_norm.default, x, weight, 1e-6)), Norm)
    assert match.op == Norm(**NORM)
    assert match.inputs == {"x": x, "weight": weight}


def test_ir_norm_of_the_unrounded_sum():
    calls = Calls()
    x, residual, weight = calls.input(4, 64), calls.input(4, 64), calls.input(64)
    out, total = calls.items(calls.call(ops.vllm_ir.fused_add_rms_norm.default, x, residual, weight, 1e-6), 0, 1)
    match = only(calls.output(out, total), Norm)
    assert match.op == Norm(**NORM, residual=True, unrounded_sum=True)
    assert match.inputs == {"x": x, "weight": weight, "residual": residual}
    assert match.outputs == {"out": (out,), "sum": (total,)}


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
    match = only(calls.output(out, total), Norm)
    assert match.op == Norm(**NORM, residual=True, unrounded_sum=False)
    assert match.inputs == {"x": x, "residual": residual, "weight": weight}
    assert match.outputs == {"out": (out,), "sum": (total,)}


def test_library_norm_gives_up_the_memory_it_was_given():
    calls = Calls()
    empty = calls.empty(4, 64, dtype=BF16)
    call = calls.functional(
        ops._C.rms_norm.default, result=empty, input=calls.input(4, 64), weight=calls.input(64), epsilon=1e-6
    )
    (out,) = calls.items(call, 1)
    match = only(calls.output(out), Norm)
    assert match.op == Norm(**NORM)
    assert set(match.nodes) == {empty, call, out}


@pytest.mark.parametrize(
    ("weight", "rounding"), [(None, NormRounding.SCALE_THEN_CAST), (torch.float32, NormRounding.SCALE_THEN_CAST)]
)
def test_weights_that_leave_nothing_to_round_between(weight, rounding):
    calls = Calls()
    x, factor = calls.input(4, 64), calls.input(64, dtype=weight or BF16)
    call = calls.call(ops.vllm_ir.rms_norm.default, x, factor if weight else None, 1e-6)
    assert only(calls.output(call), Norm).op == Norm(**NORM | dict(weight_dtype=weight, rounding=rounding))


def test_a_mean_over_a_part_of_the_row_is_refused():
    calls = Calls()
    call = calls.call(ops.vllm_ir.rms_norm.default, calls.input(4, 64), calls.input(64), 1e-6, 32)
    assert reason(calls.output(call), "norm").startswith("the mean is taken over a part of the row (variance_size)")


def test_a_weight_of_another_dtype_is_refused():
    calls = Calls()
    call = calls.call(ops.vllm_ir.rms_norm.default, calls.input(4, 64), calls.input(64, dtype=torch.float16), 1e-6)
    assert reason(calls.output(call), "norm").startswith("the weight is fp16 and x is bf16")


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
    assert [site.fusion for site in record.sites] == ["norm_quant"]
    assert not record.refusals and not record.count_unfused()
    assert not [node for node in graph.nodes if "rms_norm_dynamic" in str(node.args)]
    assert ("residual" in record.sites[0].shapes) is with_residual


def test_a_norm_fused_with_scales_a_group():
    calls = Calls()
    op = ops._C.rms_norm_per_block_quant.default
    q, scale = fused_norm(calls, op, None, (4, 2), (1, 4), group_size=128, is_scale_transposed=True)
    op = only(calls.output(q, scale), Quantize).op
    assert (op.group, op.scale_layout, op.scale_format) == (128, ScaleLayout.COLUMN_MAJOR, ScaleFormat.FP32)
    assert op.use is ScaleUse.MULTIPLY_RECIPROCAL


def test_the_second_half_of_an_operator_is_not_taken_alone():
    calls = Calls()
    q, scale = fused_norm(calls, ops._C.rms_norm_dynamic_per_token_quant.default, None, (4, 1))
    graph = calls.output(calls.matmul(q, scale))
    before = str(graph)
    fusion_pass = FusionPass([fusion for fusion in fusions() if fusion.name == "quant"], strict=True)
    fusion_pass(graph)
    (record,) = fusion_pass.records
    assert not record.sites and record.count_unfused() == {"RMSNorm": 1, "Quantize": 1}
    assert str(graph) == before


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
    assert only(graph, Norm).op == Norm(**NORM, residual=with_residual)
    assert sites(graph) == ["norm_quant"]
    assert not calls_of(graph, "rms_norm")
