# SPDX-License-Identifier: Apache-2.0
"""vllm_activation: what vLLM's activations mean, alone or fused with a quantiser, and which stay and why."""

import pytest
import torch

from helion_compile.passes.semantics import Activation, ActivationFunction, ActivationRounding, Granularity, Quantize, ScaleUse
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
