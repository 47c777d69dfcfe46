# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.aten.activation: how activation functions are written, and what they are then said to be."""

import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers.activations import ACT2FN
from transformers.models.bloom.modeling_bloom import bloom_gelu_forward
from transformers.models.esm.modeling_esm import gelu as esm_gelu
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXMLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.nemotron.modeling_nemotron import NemotronMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Activation, ActivationFunction, ActivationRounding
from tests.support import checks, programs
from tests.support.capture import capture
from tests.support.corpus.activations import ACTIVATIONS

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
SILU, SIGMOID, GELU, GELU_DIVIDED, GELU_TANH, GELU_TANH_FACTORED, RELU_SQUARED, RELU, QUICK_GELU = ActivationFunction
FUNCTION, RESULT, EVERY_STEP = ActivationRounding


def only_region(function, *args, dynamic=False):
    matched = match_graph(capture(function, *args, dynamic=dynamic).graph)
    assert not matched.refusals, matched.refusals
    (match,) = matched.matches
    return match


def refused(function, *args):
    return checks.refused("activation", function, *(args or (programs.tensor(8, 64),)))


ALONE = {str(row): row for row in ACTIVATIONS if row.operands == ("x",)}


@pytest.mark.parametrize("name", ALONE)
def test_up_as_the_first_factor(name):
    def program(x, up):
        return up * ALONE[name].function(x)

    match = only_region(program, programs.tensor(3, 5, 64), programs.tensor(3, 5, 64, seed=1))
    (gated,) = (row for row in ACTIVATIONS if str(row) == f"{name}_times_up")
    assert match.op == gated.op(BF16)
    assert [match.inputs[name].target for name in ("x", "up")] == ["arg0_1", "arg1_1"]


# The activations that configs of transformers name, and what each is read as: a function, rounded once or at every step, or
# why not.  The others are no functions of a semantic op, nor near one.
TAKEN = {
    "gelu": (GELU, RESULT),
    "gelu_fast": (GELU_TANH_FACTORED, EVERY_STEP),
    "gelu_new": (GELU_TANH, EVERY_STEP),
    "gelu_python": (GELU_DIVIDED, EVERY_STEP),
    "gelu_pytorch_tanh": (GELU_TANH, RESULT),
    "gelu_python_tanh": (GELU_TANH, EVERY_STEP),
    "gelu_accurate": (GELU_TANH, EVERY_STEP),
    "gelu_10": (GELU, RESULT),  # and a clamp behind it
    "relu2": (RELU_SQUARED, RESULT),
    "silu": (SILU, RESULT),
    "swish": (SILU, RESULT),
    "quick_gelu": (QUICK_GELU, EVERY_STEP),
    "relu": (RELU, RESULT),
}
OTHERS = "hardswish laplace leaky_relu linear mish prelu relu6 sigmoid sqrtsoftplus tanh xielu".split()
# dynamic=True makes inputs of Python floats that are no literals, as math.pi; of which, depends on the torch.
AT_RUN_TIME = "a factor of gelu's cubic is known at run time only; one that is a constant of the graph fuses"
WITH_SUCH_A_FACTOR = ("gelu_new", "gelu_python_tanh", "gelu_accurate")


@pytest.mark.parametrize("dynamic", [None, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*TAKEN, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_functions_of_transformers(name, dynamic):
    """None: the number of rows is unknown.  True: every size, and every Python float that is no literal."""
    x = programs.tensor(8, 64)
    torch._dynamo.mark_dynamic(x, 0)
    matched = match_graph(capture(ACT2FN[name].to(BF16), x, dynamic=dynamic).graph)
    expected = TAKEN.get(name)
    if dynamic and name in WITH_SUCH_A_FACTOR and not matched.matches:
        expected = AT_RUN_TIME
    if isinstance(expected, tuple):
        (match,) = matched.matches
        function, rounding = expected
        # torch 2.11 rounds behind the clamp of gelu_10, later ones before it.
        dtype = match.op.dtype if name == "gelu_10" else BF16
        assert match.op == Activation(function=function, gated=False, x_dtype=BF16, dtype=dtype, rounding=rounding)
    else:
        assert not matched.matches
    if isinstance(expected, str):
        (refusal,) = matched.refusals
        assert str(refusal).startswith(expected) and refusal.found and refusal.remedy
    else:
        assert not matched.refusals


def test_each_function_of_transformers_is_named_above():
    assert set(ACT2FN) == {*TAKEN, *OTHERS}


@pytest.mark.parametrize(("written", "function"), [(bloom_gelu_forward, GELU_TANH_FACTORED), (esm_gelu, GELU_DIVIDED)])
def test_functions_of_models(written, function):
    op = only_region(written, programs.tensor(8, 64)).op
    assert op == Activation(function=function, gated=False, x_dtype=BF16, dtype=BF16, rounding=EVERY_STEP)


@pytest.mark.parametrize(
    "halves",
    [
        lambda x: x.chunk(2, dim=-1),
        lambda x: x.split(64, dim=-1),
        lambda x: (x[..., :64], x[..., 64:]),
        lambda x: x.unflatten(-1, (2, 64)).unbind(-2),
    ],
)
def test_halves_of_one_tensor_are_two_inputs(halves):
    def program(x):
        gate, up = halves(x)
        return F.silu(gate) * up

    match = only_region(program, programs.tensor(2, 4, 128))
    assert match.op.gated
    assert [tuple(node.meta["val"].stride()) for node in match.inputs.values()] == [(512, 128, 1)] * 2


def test_other_factors_stay_outside():
    def several_readers(x, up):
        value = F.silu(x)
        return value * up, value

    def broadcast(x, up):
        return F.silu(x) * up[..., :1]

    def another_dtype(x, up):
        return F.silu(x) * up.float()

    def itself(x, up):
        value = F.silu(x)
        return value * value

    for program in (several_readers, broadcast, another_dtype, itself):
        match = only_region(program, programs.tensor(8, 64), programs.tensor(8, 64, seed=1))
        assert not match.op.gated and match.op.rounding is RESULT, program


def test_a_result_rounded_twice_has_two_copies():
    def program(x):
        value = F.silu(x.float())
        return value.to(BF16).cos(), value.to(BF16).sin()

    match = only_region(program, programs.tensor(8, 64))
    assert match.op.dtype == BF16 and len(match.outputs["out"]) in (1, 2)  # torch may have merged them


SIZES = dict(hidden_size=64, intermediate_size=128, num_attention_heads=2)


@pytest.mark.parametrize(
    ("module", "config", "function", "gated"),
    [
        (LlamaMLP, transformers.LlamaConfig(**SIZES), SILU, True),
        (Qwen3MLP, transformers.Qwen3Config(**SIZES), SILU, True),
        (Phi3MLP, transformers.Phi3Config(**SIZES, pad_token_id=0), SILU, True),
        (Gemma3MLP, transformers.Gemma3TextConfig(**SIZES), GELU_TANH, True),
        (GPTNeoXMLP, transformers.GPTNeoXConfig(**SIZES), GELU, False),
        (NemotronMLP, transformers.NemotronConfig(**SIZES), RELU_SQUARED, False),
    ],
)
def test_modules_of_transformers(module, config, function, gated):
    module = module(config).to(BF16).requires_grad_(False)
    op = only_region(module, programs.tensor(2, 4, 64)).op
    rounding = FUNCTION if gated else RESULT
    assert op == Activation(function=function, gated=gated, x_dtype=BF16, dtype=BF16, rounding=rounding)


def swiglu(x, up, low=-7.0, high=7.0, gate_low=None, limit=7.0):
    gate, up = x.clamp(gate_low, limit), up.clamp(low, high)
    return (up + 1) * (gate * torch.sigmoid(gate * 1.702))


class TestClamps:
    """gpt-oss bounds the gate from above and ``up`` both ways, by one limit."""

    def matched(self, function, *args):
        match = only_region(function, *(args or (programs.tensor(8, 64), programs.tensor(8, 64, seed=1))))
        return match, match.op.limit, match.op.up_offset

    def test_interleaved_halves(self):
        match, limit, offset = self.matched(lambda z: swiglu(z[..., ::2], z[..., 1::2]), programs.tensor(2, 4, 128))
        assert (limit, offset) == (7.0, 1.0)
        assert [tuple(node.meta["val"].stride()) for node in match.inputs.values()] == [(512, 128, 2)] * 2

    @pytest.mark.parametrize("changed", [{"low": -6.0}, {"high": 6.0}, {"gate_low": -7.0}, {"limit": 6.0}, {"low": None}])
    def test_other_bounds_stay_in_front(self, changed):
        match, limit, offset = self.matched(lambda x, up: swiglu(x, up, **changed))
        assert (limit, offset) == (None, 1.0) and match.op.gated
        assert all(node.op == "call_function" for node in match.inputs.values())

    def test_clamps_that_something_else_reads_stay_in_front(self):
        def program(x, up):
            bounded = up.clamp(-7.0, 7.0)
            gate = x.clamp(max=7.0)
            return (bounded + 1) * (gate * torch.sigmoid(gate * 1.702)), bounded

        assert self.matched(program)[1:] == (None, 1.0)

    def test_a_sum_that_something_else_reads_is_the_second_half(self):
        def program(x, up):
            total = up + 1
            return F.silu(x) * total, total

        match, limit, offset = self.matched(program)
        assert (limit, offset) == (None, 0.0) and match.op.gated

    def test_a_gate_alone(self):
        """Nothing to multiply by: the clamp stays in front."""
        assert self.matched(lambda x: F.silu(x.clamp(max=7.0)), programs.tensor(8, 64))[1:] == (None, 0.0)


def test_equal_activations_are_one_region():
    def program(x, up):
        return F.silu(x) * up, (F.silu(x) * up).cos()

    assert only_region(program, programs.tensor(8, 64), programs.tensor(8, 64, seed=1)).merged in (1, 2)


def test_others_are_no_candidates():
    def program(x):
        return (
            torch.sigmoid(x),
            torch.tanh(x),
            torch.erf(x),
            torch.exp(-x),
            torch.softmax(x, -1),
            1 / (1 + torch.exp(-x)),
            x * torch.sigmoid(x.roll(1)),
        )

    matched = match_graph(capture(program, programs.tensor(8, 64, dtype=FP32)).graph)
    assert not matched.matches and not matched.refusals


class TestRefused:
    @pytest.mark.parametrize("factor", [1.7, 2.0])
    def test_a_sigmoid_of_another_product(self, factor):
        reason = refused(lambda x: x * torch.sigmoid(factor * x))
        assert reason.startswith(f"x * sigmoid({factor:g} x) is in no pattern; x * sigmoid(x) and x * sigmoid(1.702 x) fuse")

    @pytest.mark.parametrize(
        "inner",
        [
            lambda x: x * 0.7978845608 * (1.0 + 0.044715 * (x * x)),
            lambda x: 0.7978845608 * (x * (1.0 + 0.044715 * x * x)),
            lambda x: x * 0.7978845608 + 0.0356774081 * x * x * x,
            lambda x: 2 * (0.7978845608 * x),
            lambda x: x * 0.7978845608 * (1.0 + 0.044715 * x),
        ],
    )
    def test_gelu_with_another_order_in_the_cubic(self, inner):
        reason = refused(lambda x: 0.5 * x * (1.0 + torch.tanh(inner(x))))
        assert "which round differently from other orders, it fuses" in reason

    def test_gelu_with_other_factors(self):
        reason = refused(lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.8 * (1.0 + 0.044715 * x * x))))
        assert reason.startswith("gelu takes tanh(0.8 (x + 0.044715 x³)); with 0.797885 and 0.044715")

    def test_a_factor_known_at_run_time(self):
        """As dynamic=True makes it of ``math.sqrt(2.0 / math.pi)`` in transformers' gelu_new."""

        def program(x, factor):
            return 0.5 * x * (1.0 + torch.tanh(factor * (x + 0.044715 * torch.pow(x, 3.0))))

        reason = refused(program, programs.tensor(8, 64), torch.tensor(0.7978845608))
        assert reason.startswith("a factor of gelu's cubic is known at run time only")

    def test_gelu_with_other_constants(self):
        def program(x):
            return 0.5 * x * (1.0 + torch.tanh(0.8 * (x + 0.044715 * torch.pow(x, 3.0))))

        assert refused(program).startswith("gelu takes tanh(0.8 (x + 0.044715 x³)); with 0.797885 and 0.044715")

    @pytest.mark.parametrize(
        ("inner", "found"),
        [
            (lambda x: x / math.sqrt(0.5), "x / 0.707107"),
            (lambda x: x * math.sqrt(2.0), "x * 1.41421"),
            (lambda x: torch.full((), math.sqrt(2.0), dtype=BF16) / x, "1.41421 / x"),
        ],
    )
    def test_gelu_of_another_quotient(self, inner, found):
        reason = refused(lambda x: x * 0.5 * (1.0 + torch.erf(inner(x))))
        assert reason == f"gelu takes erf({found}); erf(x * √½) and erf(x / √2) fuse"

    def test_gelu_without_the_half(self):
        reason = refused(lambda x: x * 2.0 * (1.0 + torch.erf(x * math.sqrt(0.5))))
        assert reason == "expected x * 0.5 * (1 + erf(…)), found x * 2"

    def test_silu_of_something_else(self):
        reason = refused(lambda x: x.cos() / (1 + torch.exp(-x)))
        assert reason.startswith("aten.cos.default (cos) is divided by 1 + exp(-the graph input arg0_1)")

    def test_a_cube_that_is_rounded_after_each_product(self):
        def program(x):
            return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))))

        assert refused(program).startswith("the cube of bf16 is rounded after each product")

    def test_fp64(self):
        reason = refused(lambda x: F.silu(x), programs.tensor(8, 64, dtype=torch.float64))
        assert reason == "silu of fp64 in fp64; bf16, fp16 and fp32 fuse"

    def test_a_sigmoid_that_something_else_reads(self):
        def program(x):
            gate = torch.sigmoid(x)
            return x * gate, gate

        assert "an intermediate value, is also read by output" in refused(program)


def test_a_half_of_another_tensor_is_no_gelu():
    def program(x, y):
        return (y * 0.5) * (torch.erf(x * math.sqrt(0.5)) + 1)

    x, y = programs.tensor(8, 64, dtype=FP32), programs.tensor(8, 64, dtype=FP32, seed=1)
    assert not match_graph(capture(program, x, y).graph).matches
    assert only_region(lambda x: program(x, x), x).op.function is GELU


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x * 0.5) * (torch.erf(x * 0.7072) + 1),
        lambda x: (x * 0.5) * (torch.erf(x / 1.4143) + 1),
        lambda x: (x * 0.5) * (torch.tanh((x + x.pow(3) * 0.044715) * 0.798) + 1),
        lambda x: (x * 0.5) * (torch.tanh((x + x.pow(3) * 0.0447) * math.sqrt(2 / math.pi)) + 1),
    ],
    ids=["erf", "erf of a quotient", "tanh's factor", "tanh's cube"],
)
def test_a_constant_of_gelu_in_four_digits_is_another_constant(function):
    assert refused(function, programs.tensor(8, 64, dtype=FP32))
