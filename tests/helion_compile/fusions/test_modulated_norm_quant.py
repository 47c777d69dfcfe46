# SPDX-License-Identifier: Apache-2.0
"""What becomes ``modulated_norm_quant`` and what does not, from torch code through the pass to results on a CPU."""

import operator

import pytest
import torch
import torch.nn.functional as F

from helion_compile.frontend.capture import make_inspecting_backend
from helion_compile.graph.hop import helion_kernel
from tests.support.corpus.quantisers import torchao_row, vllm_static
from tests.support.fusing import assert_bit_equal, fused, randn, refused, run
from tests.support.numerics import relative_error

B, T, K = 2, 10, 64
BF16, FP32 = torch.bfloat16, torch.float32


def rows(mod, count=6):
    return mod.unsqueeze(1).chunk(count, -1)


def flux(x, y, mod):
    """Gated residual, LayerNorm without weights, scale and shift; each step rounded."""
    shift, scale, gate, *_ = rows(mod)
    x = x + gate * y
    return F.layer_norm(x, (K,), eps=1e-6) * (1 + scale) + shift, x


def wan(x, y, mod):
    """The same in fp32, with one cast each for the sum and the result."""
    shift, scale, gate, *_ = rows(mod.float())
    x = (x.float() + y * gate).type_as(x)
    return (F.layer_norm(x.float(), (K,), eps=1e-6) * (1 + scale) + shift).type_as(x), x


def first_block(x, y, mod):
    """No sum in front."""
    shift, scale, *_ = rows(mod)
    return F.layer_norm(x, (K,), eps=1e-6) * (1 + scale) + shift, x


def z_image(x, y, mod):
    """A weighted RMSNorm and a scale alone."""
    x32 = x.float()
    normed = (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5) * y[0, 0]).type_as(x)
    return normed * (1 + rows(mod)[1]), x


MODELS = [flux, wan, first_block, z_image]


def quantised(model):
    def program(x, y, mod):
        out, total = model(x, y, mod)
        return *torchao_row(out.reshape(-1, K)), total

    return program


def inputs(dtype=BF16, batches=B):
    return (
        randn(batches, T, K, dtype=dtype),
        randn(batches, T, K, dtype=dtype, seed=1),
        randn(batches, 6 * K, dtype=dtype, seed=2),
    )


@pytest.mark.parametrize("batches", [1, B])
@pytest.mark.parametrize("model", MODELS)
def test_exact_is_the_graph_bit_for_bit(model, batches):
    """Without the pass the same graph is run node by node."""
    args = inputs(batches=batches)
    results, record = run(quantised(model), *args, numerics="exact")
    assert fused(record) == ["modulated_norm_quant"] and not record.refusals
    assert_bit_equal(results, run(quantised(model), *args, only=[])[0])


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(FP32, marks=pytest.mark.slow)], ids=str)
def test_exact_in_other_dtypes(dtype):
    args = inputs(dtype)
    results, record = run(quantised(flux), *args, numerics="exact")
    assert fused(record) == ["modulated_norm_quant"]
    assert_bit_equal(results, run(quantised(flux), *args, only=[])[0])


@pytest.mark.parametrize("model", MODELS)
def test_default_is_as_near_to_fp64_as_inductor(model):
    args = inputs()
    (q, scale, _), record = run(quantised(model), *args)
    assert fused(record) == ["modulated_norm_quant"]
    their_q, their_scale, _ = torch.compile(quantised(model), backend="inductor", fullgraph=True)(*args)
    truth = model(*(tensor.double() for tensor in args))[0].reshape(-1, K)
    if model is not z_image:  # which computes in fp32 by itself
        truth = in_fp64(model, *args)
    ours, theirs = (relative_error(a.double() * b, truth) for a, b in ((q, scale), (their_q, their_scale)))
    assert ours <= theirs * 1.01  # of few values; last bits of fp32 move single bytes either way


def in_fp64(model, x, y, mod):
    x, y, mod = (tensor.double() for tensor in (x, y, mod))
    shift, scale, gate, *_ = rows(mod)
    total = x if model is first_block else x + gate * y
    return (F.layer_norm(total, (K,), eps=1e-6) * (1 + scale) + shift).reshape(-1, K)


@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_verified_sites(numerics):
    """The product that is rounded and the sum keep the contract."""
    found = []
    backend = make_inspecting_backend(found, options={"strict": True, "numerics": numerics}, verify=True)
    for model in MODELS:
        torch._dynamo.reset()
        found.clear()
        torch.compile(quantised(model), backend=backend, fullgraph=True)(*inputs())
        (site,) = found[0].report.fused
        assert site.verified and [compared.broken for compared in site.verified if compared.broken] == [], model


def test_a_static_scale():
    def program(x, y, mod, scale):
        out, total = flux(x, y, mod)
        return vllm_static(out.reshape(-1, K), scale), total

    args = *inputs(), torch.tensor([0.02])
    results, record = run(program, *args, numerics="exact")
    assert fused(record) == ["modulated_norm_quant"]
    assert_bit_equal(results, run(program, *args, only=[])[0])


def test_three_readers_share_one_call_and_the_modulated_value_is_a_result_too():
    def program(x, y, mod):
        out, total = flux(x, y, mod)
        return [torchao_row(out.reshape(-1, K)) for _ in range(3)], total, out * 2

    found = []
    backend = make_inspecting_backend(found, options={"strict": True})
    torch.compile(program, backend=backend, fullgraph=True)(*inputs())
    targets = [node.target for node in found[0].module.graph.nodes]
    # Bytes, scales, sum and modulated value.
    assert targets.count(helion_kernel) == 1 and targets.count(operator.getitem) >= 4
    assert "out" in found[0].record.sites[0].shapes


def test_any_sizes_through_one_graph():
    found = []
    compiled = torch.compile(quantised(flux), backend=make_inspecting_backend(found, options={"strict": True}), dynamic=True)
    for batches, tokens in ((2, 10), (3, 7), (4, 12)):
        x, y = (randn(batches, tokens, K, seed=seed) for seed in (0, 1))
        mod = randn(batches, 6 * K, seed=2)
        for tensor in (x, y):
            torch._dynamo.mark_static(tensor, 2)
        torch._dynamo.mark_static(mod, 1)
        q, scale, total = compiled(x, y, mod)
        assert q.shape == (batches * tokens, K) and scale.shape == (batches * tokens, 1)
        assert relative_error(total, flux(x, y, mod)[1]) < 2**-8
    assert [fused(graph.record) for graph in found] == [["modulated_norm_quant"]]


def test_a_gated_sum_in_front_of_a_plain_norm_is_computed_apart():
    """The product in a tensor of its own would be one tensor more."""

    def program(x, y, mod):
        total = x + rows(mod)[2] * y
        return *torchao_row(F.layer_norm(total, (K,), eps=1e-6).reshape(-1, K)), total

    results, record = run(program, *inputs(), numerics="exact")
    assert fused(record) == ["norm_quant"]
    assert "residual" not in record.sites[0].shapes
    assert_bit_equal(results, run(program, *inputs(), only=[])[0])


class TestLeftAlone:
    def test_a_scale_of_each_token(self):
        def program(x, scale):
            return torchao_row((F.layer_norm(x, (K,)) * (1 + scale)).reshape(-1, K))

        refused(
            program,
            randn(B, T, K),
            randn(1, T, K, seed=1),
            reason="the scale has shape [1, 10, 64] beside values [2, 10, 64]; one row for each batch, or one for all, fuses",
            still=["quant"],
            numerics="exact",
        )

    def test_a_shift_of_another_layout(self):
        def program(x, scale, shift):
            return torchao_row((F.layer_norm(x, (K,)) * (1 + scale) + shift).reshape(-1, K))

        refused(
            program,
            randn(B, T, K),
            randn(B, 1, K, seed=1),
            randn(1, 1, K, seed=2),
            reason="the scale has shape [2, 1, 64] and the shift [1, 1, 64]; of one shape they fuse",
            still=["quant"],
            numerics="exact",
        )

    def test_a_norm_that_something_else_reads(self):
        def program(x, scale):
            n = F.layer_norm(x, (K,))
            return *torchao_row((n * (1 + scale)).reshape(-1, K)), n

        refused(
            program,
            randn(B, T, K),
            randn(B, 1, K, seed=1),
            reason="the norm is also read without its modulation",
            still=["quant"],
            numerics="exact",
        )

    def test_steps_of_two_dtypes(self):
        def program(x, scale, shift):
            return torchao_row((F.layer_norm(x, (K,)) * (1 + scale) + shift.float()).bfloat16().reshape(-1, K))

        refused(
            program,
            randn(B, T, K),
            *(randn(B, 1, K, seed=seed) for seed in (1, 2)),
            reason="bf16 is scaled in bf16 to bf16 and shifted in fp32",
            still=["quant"],
            numerics="exact",
        )

    def test_a_product_without_a_norm(self):
        def program(x, scale):
            return torchao_row((x * (1 + scale)).reshape(-1, K))

        _, record = run(program, randn(B, T, K), randn(B, 1, K, seed=1), numerics="exact")
        assert fused(record) == ["quant"] and not record.refusals

    def test_a_gate_behind_a_norm(self):
        """Z-Image gates what a norm gives: no scale, as nothing is added to it and no shift follows."""

        def program(x, gate):
            return torchao_row((F.layer_norm(x, (K,)) * gate).reshape(-1, K))

        _, record = run(program, randn(B, T, K), randn(B, 1, K, seed=1), numerics="exact")
        assert fused(record) == ["quant"] and not record.refusals

    def test_a_gate_of_each_token(self):
        """A plain residual then, of a product that is a tensor of its own."""

        def program(x, y, gate, scale):
            total = x + gate * y
            return *torchao_row((F.layer_norm(total, (K,)) * (1 + scale)).reshape(-1, K)), total

        args = randn(B, T, K), randn(B, T, K, seed=1), randn(1, T, K, seed=2), randn(B, 1, K, seed=3)
        _, record = run(program, *args, numerics="exact")
        assert fused(record) == ["modulated_norm_quant"] and "gate" not in record.sites[0].shapes

    def test_rows_of_other_lengths(self):
        """Heads are normalised, and all of them modulated together."""

        def program(x, scale):
            n = F.layer_norm(x.unflatten(-1, (4, 16)), (16,)).flatten(-2)
            return torchao_row((n * (1 + scale)).reshape(-1, K))

        refused(
            program,
            randn(B, T, K),
            randn(B, 1, K, seed=1),
            reason="rows of 16 elements are modulated in rows of 64",
            still=["quant"],
            numerics="exact",
        )
