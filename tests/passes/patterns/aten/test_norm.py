# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.aten.norm: beyond the table of patterns, what else matters to reading a norm, and what is no norm."""

import dataclasses
import functools
import operator

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from helion_compile.passes.ir.values import rounded
from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Norm, NormKind, NormRounding
from tests.support import checks, interpret, programs
from tests.support.capture import capture
from tests.support.checks import assert_near

aten = torch.ops.aten

BF16, FP32 = torch.bfloat16, torch.float32
SCALE_THEN_CAST = NormRounding.SCALE_THEN_CAST


def only(graph):
    """The one match of a graph in which nothing was refused."""
    matched = match_graph(graph)
    assert not matched.refusals, matched.refusals
    (match,) = matched.matches
    return match


refused = functools.partial(checks.refused, "norm")


@pytest.mark.parametrize("norm", [programs.llama_norm, programs.functional_norm, programs.weightless_norm])
def test_a_hidden_size_that_is_symbolic(norm):
    def program(x, other, weight):
        total = x + other
        return norm(total, weight), total

    x, other = programs.tensor(3, 5, 64), programs.tensor(3, 5, 64, seed=1)
    match = only(capture(program, x, other, programs.tensor(64), dynamic=True).graph)
    weightless = norm is programs.weightless_norm
    assert match.op.weight_dtype == (None if weightless else BF16) and match.op.residual
    assert set(match.inputs) == {"x", "residual"} | (set() if weightless else {"weight"})
    assert set(match.outputs) == {"out", "sum"}


@pytest.mark.parametrize("weight_dtype", [BF16, FP32])
@pytest.mark.parametrize("norm", [programs.llama_norm, programs.olmo_norm])
def test_the_dtype_of_the_weight_is_recorded(norm, weight_dtype):
    match = only(capture(norm, programs.tensor(8, 64), programs.tensor(64, dtype=weight_dtype)).graph)
    assert match.op.weight_dtype == weight_dtype
    # Llama's product of a bf16 value and an fp32 weight is fp32: rounded to bf16 before the weight, not after it.
    assert match.op.dtype == (weight_dtype if norm is programs.llama_norm else BF16)


def test_the_module_class_is_read_like_the_function():
    norm = torch.nn.RMSNorm(64, eps=1e-6, dtype=BF16)
    match = only(capture(norm, programs.tensor(8, 64)).graph)
    assert match.op == Norm(eps=1e-6, x_dtype=BF16, dtype=BF16, weight_dtype=BF16, rounding=SCALE_THEN_CAST)


def test_a_sum_is_taken_by_the_first_of_two_norms_that_read_it():
    def program(x, other, weight):
        total = x + other
        return programs.llama_norm(total, weight), programs.llama_norm(total, weight + 1)

    args = programs.tensor(8, 64), programs.tensor(8, 64, seed=1), programs.tensor(64)
    matches = match_graph(capture(program, *args).graph).matches
    assert [match.op.residual for match in matches] == [True, False]
    assert matches[1].inputs["x"] is matches[0].outputs["sum"][0]
    assert matches[0].smaller.op == dataclasses.replace(matches[0].op, residual=False)


@pytest.mark.parametrize(
    "add",
    [
        lambda x, other: torch.add(x, other, alpha=2),
        lambda x, other: x + other[0],
        lambda x, other: (x.float() + other).to(x.dtype),
    ],
    ids=["alpha", "broadcast", "other dtype"],
)
def test_another_addition_is_no_residual(add):
    def program(x, other, weight):
        total = add(x, other)
        # Read twice, or torch 2.11 drops the rounding of a sum that is cast back and forth.
        return programs.llama_norm(total, weight), total.sin()

    args = programs.tensor(8, 64), programs.tensor(8, 64, seed=1), programs.tensor(64)
    assert not only(capture(program, *args).graph).op.residual


def test_equal_norms_are_one_region():
    def program(x, weight):
        return programs.llama_norm(x, weight), programs.llama_norm(x, weight), programs.llama_norm(x, weight + 1)

    matches = match_graph(capture(program, programs.tensor(8, 64), programs.tensor(64)).graph).matches
    assert [(match.merged, len(match.outputs["out"])) for match in matches] == [(2, 2), (1, 1)]


def test_rsqrt_without_a_mean_is_no_candidate():
    def program(x, variance):
        return x * torch.rsqrt(variance + 1e-5), torch.rsqrt(x)

    matched = match_graph(capture(program, programs.tensor(8, 64), programs.tensor(8, 64)).graph)
    assert not matched.matches and not matched.refusals


class TestRefused:
    x, weight = programs.tensor(8, 64), programs.tensor(64)

    def test_eps_of_a_dynamic_graph(self):
        class Norm(torch.nn.Module):
            eps = 1e-6

            def forward(self, x, weight):
                x32 = x.float()
                return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)

        reason = refused(Norm(), self.x, self.weight, dynamic=True)
        assert reason.startswith("eps is known at run time only, it is the graph input arg")
        assert "specialize_float" in reason
        with torch._dynamo.config.patch(specialize_float=True):
            assert only(capture(Norm(), self.x, self.weight, dynamic=True).graph).op.eps == 1e-6

    def test_a_multiple_of_eps(self):
        def program(x, weight):
            x32 = x.float()
            return weight * (x32 * torch.rsqrt(torch.add(x32.pow(2).mean(-1, keepdim=True), 1e-5, alpha=2))).to(x.dtype)

        assert refused(program, self.x, self.weight) == "expected mean + eps, found an addition with alpha=2"

    def test_another_dimension(self):
        def program(x, weight):
            x32 = x.float()
            return weight * (x32 * torch.rsqrt(x32.pow(2).mean(0, keepdim=True) + 1e-5)).to(x.dtype)

        reason = refused(program, self.x, self.weight)
        assert reason == "expected a mean over the last dimension, found aten.mean.dim (mean) over [0] of 2"

    def test_several_dimensions(self):
        def program(x, weight):
            x32 = x.float()
            return weight * (x32 * torch.rsqrt(x32.pow(2).mean((0, 1), keepdim=True) + 1e-5)).to(x.dtype)

        assert "over [0, 1] of 2" in refused(program, self.x, self.weight)

    def test_statistics_broadcast_along_the_wrong_dimension(self):
        def program(x, weight):
            x32 = x.float()
            return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1) + 1e-5)).to(x.dtype)

        reason = refused(program, programs.tensor(64, 64), self.weight)
        assert "of shape [64, 1], one number a row, found aten.rsqrt.default (rsqrt) of shape [64]" in reason

    @pytest.mark.parametrize("norm", [programs.llama_norm, programs.olmo_norm])
    def test_a_weight_for_each_token(self, norm):
        reason = refused(norm, self.x, programs.tensor(8, 64))
        assert reason == "the weight, the graph input arg1_1, has shape [8, 64]; shape [64] fuses"

    def test_statistics_in_a_low_dtype(self):
        def program(x, weight):
            return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))

        assert "the mean is taken in bf16" in refused(program, self.x, self.weight)

    def test_statistics_of_another_tensor(self):
        def program(x, weight, other):
            rstd = torch.rsqrt(other.float().pow(2).mean(-1, keepdim=True) + 1e-5)
            return weight * (x.float() * rstd).to(x.dtype)

        assert "with the x whose mean was taken, found aten.mul.Tensor" in refused(
            program, self.x, self.weight, programs.tensor(8, 64, seed=2)
        )

    def test_mean_of_something_else(self):
        def program(x, weight):
            x32 = x.float()
            return weight * (x32 * torch.rsqrt(x32.abs().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)

        assert "expected the square of x (" in (reason := refused(program, self.x, self.weight))
        assert reason.endswith("found aten.abs.default (abs_1)")

    def test_the_normalised_value_read_before_the_weight(self):
        def program(x, weight):
            x32 = x.float()
            normalised = (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)
            return weight * normalised, normalised.sin()

        assert "also read before the weight is applied, by aten.sin.default" in refused(program, self.x, self.weight)

    def test_the_statistics_read_elsewhere(self):
        def program(x, weight):
            x32 = x.float()
            rstd = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5)
            return weight * (x32 * rstd).to(x.dtype), rstd

        reason = refused(program, self.x, self.weight)
        assert reason.startswith("aten.rsqrt.default (rsqrt), an intermediate value, is also read by output")


def test_an_offset_of_zero_is_part_of_the_weight():
    """It changes the sign of a weight that is -0, so it is not passed over, unless torch itself drops it, as 2.15 does."""

    def program(x, weight):
        x32 = x.float()
        normalised = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5)
        return (normalised * (weight.float() + 0.0)).to(x.dtype)

    graph = capture(program, programs.tensor(8, 64), programs.tensor(64)).graph
    match = only(graph)
    assert match.op.weight_offset == 0
    additions = [node for node in graph.find_nodes(op="call_function", target=aten.add.Tensor) if node.args[1] == 0.0]
    assert match.inputs["weight"] in (additions or graph.find_nodes(op="placeholder"))


class TestLibraryOperations:
    """Where a compiler keeps torch's own operations; Inductor takes them apart before the pass."""

    x, weight, bias = programs.tensor(8, 64), programs.tensor(64, seed=1), programs.tensor(64, seed=2)

    def graph(self, operation, tensors, *rest, read=(0,)):
        """A graph of one call, made by hand: on a CPU a trace takes it apart.  Results ``read`` are the graph's."""
        graph, mode = torch.fx.Graph(), FakeTensorMode()
        inputs = [tensor if tensor is None else graph.placeholder(f"arg{index}") for index, tensor in enumerate(tensors)]
        for node, tensor in zip(inputs, tensors, strict=True):
            if node is not None:
                node.meta["val"] = mode.from_tensor(tensor)
        call = graph.call_function(operation, (inputs[0], *rest[:1], *inputs[1:], *rest[1:]))
        results = [graph.call_function(operator.getitem, (call, index)) for index in (0, 1)]
        results[0].meta["val"], results[1].meta["val"] = inputs[0].meta["val"], mode.from_tensor(torch.empty(8, 1))
        graph.output(tuple(results[index] for index in read))
        return graph

    @pytest.mark.parametrize("eps", [1e-5, None])
    def test_fused_rms_norm(self, eps):
        match = only(self.graph(aten._fused_rms_norm.default, (self.x, self.weight), [64], eps))
        assert match.op == Norm(
            eps=eps or rounded(torch.finfo(FP32).eps, FP32),
            x_dtype=BF16,
            dtype=BF16,
            weight_dtype=BF16,
            rounding=SCALE_THEN_CAST,
        )
        expected = F.rms_norm(self.x, (64,), self.weight, eps)
        assert_near(interpret.norm(match.op, self.x, self.weight)["out"], expected)

    def test_native_layer_norm(self):
        match = only(self.graph(aten.native_layer_norm.default, (self.x, self.weight, self.bias), [64], 1e-5))
        assert match.op == Norm(
            kind=NormKind.LAYER,
            eps=1e-5,
            x_dtype=BF16,
            dtype=BF16,
            weight_dtype=BF16,
            bias_dtype=BF16,
            rounding=SCALE_THEN_CAST,
        )

    def test_statistics_that_others_read(self):
        graph = self.graph(aten._fused_rms_norm.default, (self.x, self.weight), [64], 1e-5, read=(0, 1))
        (refusal,) = match_graph(graph).refusals
        assert "reads the statistics of aten._fused_rms_norm.default" in str(refusal)

    def test_two_dimensions(self):
        graph = self.graph(aten.native_layer_norm.default, (self.x, None, None), [8, 64], 1e-5)
        (refusal,) = match_graph(graph).refusals
        assert str(refusal).endswith("over [8, 64]")


@pytest.mark.parametrize("dtype", [BF16, FP32], ids=str)
def test_a_sum_of_two_dtypes_is_no_residual(dtype):
    def program(x, other, weight):
        total = torch.add(x, other)
        return programs.olmo_norm(total, weight).to(BF16), total.sin()

    args = programs.tensor(8, 64), programs.tensor(8, 64, dtype=dtype, seed=1), programs.tensor(64)
    assert only(capture(program, *args).graph).op.residual == (dtype == BF16)


@pytest.mark.parametrize("alpha", [1, 2])
def test_an_unrounded_sum_of_a_multiple_is_no_residual(alpha):
    def program(x, other, weight):
        total = torch.add(x.float(), other.float(), alpha=alpha)
        factor = torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-5)
        return weight * (total * factor).to(x.dtype), total.to(x.dtype)

    args = programs.tensor(8, 64), programs.tensor(8, 64, seed=1), programs.tensor(64)
    matches = match_graph(capture(program, *args).graph).matches
    assert any(match.op.residual for match in matches) == (alpha == 1)
