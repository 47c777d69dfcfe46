# SPDX-License-Identifier: Apache-2.0
"""What becomes ``activation_quant`` and what does not, from torch code through the pass to results on a CPU."""

import math
import operator

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.utils import run_and_get_code

from helion_compile.frontend.capture import make_inspecting_backend
from helion_compile.graph.hop import helion_kernel
from tests.support.corpus.quantisers import torchao_row
from tests.support.fusing import assert_bit_equal, fused, randn, refused, run
from tests.support.needs import row_wise_products
from tests.support.numerics import fp8_steps, relative_error, rows_with_special_values
from tests.support.pairwise import pairwise

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
K = 256


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def silu_step_by_step(x):
    return x * torch.sigmoid(x)


def relu_squared(x):
    return F.relu(x).square()


def gelu_by_division(x):
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_tanh_by_factors(x):
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


FUNCTIONS = [F.relu, quick_gelu, F.silu, F.gelu, gelu_tanh, silu_step_by_step, relu_squared]
# What the kernel computes with other operations.
IN_DEFAULT_ALONE = [gelu_by_division, gelu_tanh_by_factors]


def assert_as_near_to_fp64_as_inductor(program, function, dtype, gated):
    args = randn(64, 1000, dtype=dtype), randn(64, 1000, dtype=dtype, seed=1)
    (q, scale), record = run(program, *args)
    assert fused(record) == ["activation_quant"]
    their_q, their_scale = torch.compile(program, backend="inductor", fullgraph=True)(*args)
    assert fp8_steps(q, their_q).max() <= 1
    x64, up64 = (tensor.double() for tensor in args)
    truth = function(x64) * (up64 if gated else 1)
    ours, theirs = (relative_error(a.double() * b, truth) for a, b in ((q, scale), (their_q, their_scale)))
    assert ours <= theirs * 1.001  # as in test_fusions.py: last bits of fp32 move single bytes either way


def quantised(function, gated):
    return (lambda x, up: torchao_row(function(x) * up)) if gated else (lambda x, up: torchao_row(function(x)))


@pytest.mark.parametrize(
    ("function", "dtype", "gated"),
    pairwise(FUNCTIONS, DTYPES, (False, True)),
    ids=lambda value: getattr(value, "__name__", str(value)),
)
class TestFunctions:
    def test_exact_is_the_graph_bit_for_bit(self, function, dtype, gated):
        """Without the pass the same graph is run node by node."""
        program = quantised(function, gated)
        args = randn(2, 13, 250, dtype=dtype), randn(2, 13, 250, dtype=dtype, seed=1)
        results, record = run(program, *args, numerics="exact")
        assert fused(record) == ["activation_quant"]
        assert_bit_equal(results, run(program, *args, only=[])[0])

    def test_default_is_as_near_to_fp64_as_inductor(self, function, dtype, gated):
        assert_as_near_to_fp64_as_inductor(quantised(function, gated), function, dtype, gated)

    def test_exact_for_special_rows(self, function, dtype, gated):
        program = quantised(function, gated)
        args = rows_with_special_values(K, dtype, "cpu"), randn(8, K, dtype=dtype, seed=1)
        results, record = run(program, *args, numerics="exact")
        assert fused(record) == ["activation_quant"]
        assert_bit_equal(results, run(program, *args, only=[])[0])


@pytest.mark.parametrize("gated", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in DTYPES[1:])], ids=str
)
@pytest.mark.parametrize("function", IN_DEFAULT_ALONE, ids=lambda function: function.__name__)
def test_another_way_to_write_gelu_is_as_near_to_fp64_in_default(function, dtype, gated):
    assert_as_near_to_fp64_as_inductor(quantised(function, gated), function, dtype, gated)


def gpt_oss(gate, up):
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return (up + 1) * (gate * torch.sigmoid(gate * 1.702))


@pytest.mark.parametrize(
    "halves", [lambda z: (z[..., ::2], z[..., 1::2]), lambda z: z.chunk(2, -1)], ids=["interleaved", "chunk"]
)
def test_clamped_swiglu(halves):
    def program(z):
        return torchao_row(gpt_oss(*halves(z)))

    z = 4 * randn(2, 16, 2 * K)
    results, record = run(program, z, numerics="exact")
    assert fused(record) == ["activation_quant"] and not record.refusals
    assert_bit_equal(results, run(program, z, only=[])[0])
    (q, scale), record = run(program, z)
    assert fused(record) == ["activation_quant"]
    their_q, their_scale = torch.compile(program, backend="inductor", fullgraph=True)(z)
    truth = gpt_oss(*halves(z.double()))
    assert relative_error(q.double() * scale, truth) <= 1.001 * relative_error(their_q.double() * their_scale, truth)


def test_interleaved_halves_are_read_in_place():
    def program(z):
        z = z.sin()  # in memory of its own
        return torchao_row(F.silu(z[..., ::2]) * z[..., 1::2]), z

    with torch.no_grad():
        _, (code,) = run_and_get_code(
            torch.compile(program, backend="helion", options={"numerics": "exact"}, fullgraph=True), randn(2, 16, 2 * K)
        )
    call = code.partition("def call(")[2].partition("def get_args")[0]
    assert call.count(".call(") == 1 and call.count("cpp_fused") == 1  # the sine, and no copy
    assert f"({2 * K}, 2), 1)" in call  # the odd elements, where they lie


def test_the_activation_read_elsewhere_is_a_result_too():
    def program(x, up):
        value = F.silu(x) * up
        return *torchao_row(value), value * 2

    args = randn(8, K), randn(8, K, seed=1)
    results, record = run(program, *args, numerics="exact")
    assert fused(record) == ["activation_quant"] and "out" in record.sites[0].shapes
    assert_bit_equal(results, run(program, *args, only=[])[0])


@row_wise_products
@pytest.mark.usefixtures("kernels_are_called")
@pytest.mark.parametrize(
    "halves",
    [lambda x: x.chunk(2, dim=-1), lambda x: x.split(K, dim=-1), lambda x: (x[..., :K], x[..., K:])],
    ids=["chunk", "split", "slice"],
)
def test_halves_of_a_matmul_are_read_in_place(halves):
    def program(a, b, a_scale, b_scale):
        both = torch._scaled_mm(a, b, a_scale, b_scale, out_dtype=torch.bfloat16).reshape(2, 8, 2 * K)
        gate, up = halves(both)
        return torchao_row(F.silu(gate) * up)

    a, b = randn(16, 64).to(torch.float8_e4m3fn), randn(2 * K, 64, seed=1).to(torch.float8_e4m3fn).t()
    args = a, b, torch.ones(16, 1), torch.ones(1, 2 * K)
    with torch.no_grad():
        (q, scale), (code,) = run_and_get_code(torch.compile(program, backend="helion", fullgraph=True), *args)
    expected = run(program, *args, only=[])[0]
    assert fp8_steps(q, expected[0]).max() <= 1
    call = code.partition("def call(")[2].partition("def get_args")[0]
    assert call.count(".call(") == 1 and f"(16, {K}), ({2 * K}, 1), {K})" in call  # the second half, where it lies
    assert "cpp_fused" not in call  # no other kernel, so no copy


@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_any_number_of_rows_through_one_graph(numerics):
    def program(x):
        gate, up = x.chunk(2, -1)
        return torchao_row(F.silu(gate) * up)

    found = []
    compiled = torch.compile(
        program, backend=make_inspecting_backend(found, options={"strict": True, "numerics": numerics}), dynamic=True
    )
    for m in (13, 257, 2, 0):
        x = randn(m, 2 * K)
        torch._dynamo.mark_static(x, 1)
        q, scale = compiled(x)
        assert q.shape == (m, K) and scale.shape == (m, 1)
        assert m == 0 or fp8_steps(q, program(x)[0]).max() <= 1
    assert all(fused(graph.record) == ["activation_quant"] for graph in found) and len(found) == 2


def test_three_readers_share_one_call():
    def program(x, up):
        return [torchao_row(F.silu(x) * up) for _ in range(3)]

    found = []
    backend = make_inspecting_backend(found, options={"strict": True})
    torch.compile(program, backend=backend, fullgraph=True)(randn(8, K), randn(8, K, seed=1))
    targets = [node.target for node in found[0].module.graph.nodes]
    assert targets.count(helion_kernel) == 1 and targets.count(operator.getitem) == 2


class TestLeftAlone:
    def test_a_result_in_fp32(self):
        def program(x, up):
            return torchao_row(F.silu(x.float()) * up.float())

        refused(
            program,
            randn(8, K),
            randn(8, K, seed=1),
            reason="the activation takes bf16 and gives fp32",
            still=["quant"],
            numerics="exact",
        )

    def test_rows_that_are_no_view(self):
        def program(x, up):
            return torchao_row(F.silu(x.transpose(0, 1)) * up)

        refused(
            program,
            randn(4, 8, K),
            randn(8, 4, K, seed=1),
            reason="is no view of rows; contiguous before, it fuses",
            numerics="exact",
        )

    def test_gelu_with_every_step_rounded_in_exact_numerics(self):
        def program(x):
            inner = 0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))
            return torchao_row(0.5 * x * (1.0 + torch.tanh(inner)))

        reason = "each step of gelu's cube is rounded to torch.bfloat16"
        refused(program, randn(8, K), reason=reason, still=["quant"], numerics="exact")
        assert fused(run(program, randn(8, K))[1]) == ["activation_quant"]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
    @pytest.mark.parametrize("function", IN_DEFAULT_ALONE, ids=lambda function: function.__name__)
    def test_another_way_to_write_gelu_in_exact_numerics(self, function, dtype):
        def program(x):
            return torchao_row(function(x))

        name = function.__name__.replace("_", " ")
        reason = f"{name} has another last bit than {name.partition(' by ')[0]}, which the kernel computes"
        refused(program, randn(8, K, dtype=dtype), reason=reason, still=["quant"], numerics="exact")

    def test_bytes_that_something_else_reads(self):
        def program(x, up):
            q, scale = torchao_row(F.silu(x) * up)
            return q.float().topk(4).values, scale

        refused(program, randn(8, K), randn(8, K, seed=1), reason="a fused kernel may change a byte by one step")
