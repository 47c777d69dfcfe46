# SPDX-License-Identifier: Apache-2.0
"""vllm_activation: what vLLM's activations mean, alone or fused with a quantiser, and which stay and why."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from helion_compile.passes.ir.values import rounded
from helion_compile.passes.patterns.custom_ops import vllm_quantize
from helion_compile.passes.patterns.custom_ops.scale_floor import ask_scale_floor
from helion_compile.passes.semantics import (
    Activation,
    ActivationFunction,
    ActivationRounding,
    Granularity,
    Quantize,
    ScaleDivision,
    ScaleLayout,
    ScaleUse,
)
from tests.support.vllm.calls import Calls
from tests.support.vllm.matching import BF16, FP8, calls_of, expected, only, ops, reason, sites


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
    match = only(calls.output(out), Activation)
    assert match.op == Activation(function=function, **GATED)
    assert match.inputs == {"x": x} and match.outputs == {"out": (out,)}


def test_activation_in_fp32_rounds_once():
    calls = Calls()
    _, out = activation(calls, ops._C.silu_and_mul.default, "result", dtype=torch.float32)
    assert only(calls.output(out), Activation).op.rounding is ActivationRounding.RESULT


def test_activation_of_one_input():
    calls = Calls()
    _, out = activation(calls, ops._C.relu_squared.default, "out", width=128)
    op = only(calls.output(out), Activation).op
    assert (op.function, op.gated, op.joined) == (ActivationFunction.RELU_SQUARED, False, False)
    assert op.rounding is ActivationRounding.RESULT


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
    assert only(graph, Activation).op == Activation(function=ActivationFunction.SILU, **GATED)
    assert only(graph, Quantize).op == expected(
        granularity=Granularity.TENSOR, dynamic=False, use=ScaleUse.MULTIPLY_RECIPROCAL
    )
    assert sites(graph) == ["activation_quant"]
    assert not calls_of(graph, "silu")


def per_block(transposed=False, scale_ub=False, group=128):
    calls = Calls()
    tokens, groups = 4, 256 // group
    call = calls.functional(
        ops._C.silu_and_mul_per_block_quant.default,
        out=calls.empty(tokens, 256, dtype=FP8),
        input=calls.input(tokens, 512),
        scales=calls.empty(tokens, groups, dtype=torch.float32, stride=(1, tokens) if transposed else None),
        group_size=group,
        scale_ub=calls.input(1, dtype=torch.float32) if scale_ub else None,
        is_scale_transposed=transposed,
    )
    return calls.output(*calls.items(call, 1, 2))


@pytest.fixture
def answers(monkeypatch):
    """What the operator answers on zeros."""
    return lambda floor: monkeypatch.setattr(vllm_quantize, "ask_scale_floor", lambda *_: floor)


@pytest.mark.parametrize("floor", [1 / (448 * 512), 1e-10])
@pytest.mark.parametrize("transposed", [False, True])
def test_an_activation_fused_with_scales_a_group_has_the_floor_that_it_answers(answers, floor, transposed):
    floor = rounded(floor, torch.float32)
    answers(floor)
    graph = per_block(transposed)
    gated = {**GATED, "dtype": torch.float32, "rounding": ActivationRounding.RESULT}
    assert only(graph, Activation).op == Activation(function=ActivationFunction.SILU, **gated)
    op = only(graph, Quantize).op
    assert (op.x_dtype, op.group, op.granularity, op.use) == (torch.float32, 128, Granularity.GROUP, ScaleUse.DIVIDE)
    assert (op.scale_floor, op.division) == (floor, ScaleDivision.TENSOR)
    assert op.scale_layout is (ScaleLayout.COLUMN_MAJOR if transposed else ScaleLayout.ROW_MAJOR)
    assert sites(graph) == ["activation_quant"] and not calls_of(graph, "silu")
    assert sites(per_block(transposed), "exact") == []  # which would round the product before


def test_an_activation_fused_with_scales_a_group_says_why_it_stays(answers):
    """On a CPU, where it cannot be asked; where it answers something else; and with a bound above the scale."""
    graph = per_block()
    assert "bounds its scales from below by 1e-10 in some versions" in reason(graph, "quantize")
    assert sites(graph) == []
    answers(1e-10 / 448)
    assert "answers 2.23" in reason(per_block(), "quantize") and sites(per_block()) == []
    answers(rounded(1e-10, torch.float32))
    assert "bounds its scales from above" in reason(per_block(scale_ub=True), "quantize")


def test_an_operator_is_asked_once_with_a_group_of_zeros():
    asked = []

    def operator(q, x, scale, group, scale_ub, transposed):
        asked.append((x.shape, x.dtype, x.abs().sum().item(), group))
        scale.fill_(1e-10)

    given = operator, torch.device("cpu"), torch.bfloat16, 128
    with FakeTensorMode():  # as while a graph is compiled
        assert [ask_scale_floor(*given) for _ in range(2)] == [rounded(1e-10, torch.float32)] * 2
    assert asked == [((1, 256), torch.bfloat16, 0.0, 128)]
