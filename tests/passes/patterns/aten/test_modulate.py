# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.aten.modulate and the gated sum in front of a norm; the corpus has the ways of writing a modulation."""

import pytest
import torch
import torch.nn.functional as F

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Modulate, Norm
from tests.support import interpret, programs
from tests.support.capture import capture
from tests.support.checks import assert_near, assert_same_bits

BF16, FP32 = torch.bfloat16, torch.float32
B, T, K = 2, 6, 64
X, Y = (programs.tensor(B, T, K, seed=seed) for seed in (0, 1))
ROWS = programs.tensor(B, 1, K, seed=2)


def matches(function, *args, dynamic=False):
    matched = match_graph(capture(function, *args, dynamic=dynamic).graph)
    assert not matched.refusals, matched.refusals
    return {type(match.op): match for match in matched.matches}


def refusal(function, *args):
    """The sentence of the one that is no modulation; the norm in front is a match."""
    matched = match_graph(capture(function, *args, dynamic=False).graph)
    (found,) = matched.refusals
    assert [type(match.op) for match in matched.matches] == [Norm] and found.candidate == "modulate" and found.remedy
    return str(found)


def rounded_each(x, y, gate):
    total = y + gate * x
    return F.layer_norm(total, (K,), eps=1e-6), total


def rounded_once(x, y, gate):
    total = (y.float() + x * gate.float()).type_as(x)
    return F.layer_norm(total.float(), (K,), eps=1e-6), total


class TestGatedSums:
    @pytest.mark.parametrize(("model", "gate_dtype"), [(rounded_each, BF16), (rounded_once, FP32)])
    def test_attributes_and_what_they_promise(self, model, gate_dtype):
        norm = matches(model, X, Y, ROWS)[Norm]
        assert (norm.op.residual, norm.op.gate_dtype, norm.op.residual_multiplier) == (True, gate_dtype, 1.0)
        assert {norm.inputs[name].op for name in ("x", "residual")} == {"placeholder"}
        promised = interpret.norm(norm.op, x=X, residual=Y, gate=ROWS.to(gate_dtype))
        out, total = model(X, Y, ROWS)
        assert_same_bits(total, promised["sum"])
        assert_near(out, promised["out"])

    def test_the_smaller_match_reads_the_sum(self):
        norm = matches(rounded_each, X, Y, ROWS)[Norm]
        assert not norm.smaller.op.residual and norm.smaller.inputs["x"] is norm.outputs["sum"][0]

    @pytest.mark.parametrize("gate", [programs.tensor(1, T, K), programs.tensor(K), programs.tensor(B, T, 1)], ids=str)
    def test_other_factors_are_no_gates(self, gate):
        norm = matches(rounded_each, X, Y, gate)[Norm]
        assert norm.op.residual and norm.op.gate_dtype is None

    def test_a_product_that_something_else_reads(self):
        def program(x, y, gate):
            product = gate * x
            return F.layer_norm(y + product, (K,)), product

        assert matches(program, X, Y, ROWS)[Norm].op.gate_dtype is None


class TestModulations:
    def test_any_sizes(self):
        def program(x, scale):
            return F.layer_norm(x, (K,)) * (1 + scale)

        tensors = X.clone(), ROWS.clone()
        for tensor in tensors:
            torch._dynamo.mark_dynamic(tensor, 0)
        torch._dynamo.mark_dynamic(tensors[0], 1)
        assert Modulate in matches(program, *tensors, dynamic=None)

    def test_one_scale_for_all_batches_and_rows_of_several_dimensions(self):
        def program(x, scale):
            return F.layer_norm(x, (K,)) * (1 + scale)

        assert Modulate in matches(program, X, ROWS[:1])
        assert Modulate in matches(program, X[:, None].expand(B, 3, T, K).contiguous(), programs.tensor(B, 3, 1, K))

    def test_a_scale_that_is_an_input_is_no_weight_of_another_shape(self):
        def program(x, scale, shift):
            return F.layer_norm(x.float(), (K,)) * scale + shift

        assert Modulate in matches(program, X, ROWS.float(), ROWS.float())

    def test_no_modulation(self):
        def weight(x, w):
            return F.layer_norm(x, (K,)) * (1 + w[0, 0])

        def gate(x, w):
            return F.layer_norm(x, (K,)) * w

        def without_norm(x, w):
            return x * (1 + w) + w

        for program in (weight, gate, without_norm):
            assert Modulate not in matches(program, X, ROWS)

    def test_a_sum_that_something_else_reads_before_the_shift(self):
        """The modulation ends there."""

        def program(x, scale, shift):
            value = F.layer_norm(x, (K,)) * (1 + scale)
            return value + shift, value

        match = matches(program, X, ROWS, ROWS)[Modulate]
        assert match.op.shift_dtype is None

    def test_refused(self):
        def scale(x, scale):
            return F.layer_norm(x, (K,)) * (1 + scale)

        reason = refusal(scale, X, programs.tensor(1, T, K))
        assert reason.startswith("the scale has shape [1, 6, 64] beside values [2, 6, 64]")

        def dtypes(x, scale):
            return F.layer_norm(x.float(), (K,)) * (1 + scale)

        assert "is scaled in bf16 to fp32" in refusal(dtypes, X, ROWS)
