# SPDX-License-Identifier: Apache-2.0
"""What becomes a kernel and what does not, from torch code through ``backend="helion"``'s pass to results.

Functions write norms and quantisers as models do.  Each runs up to code generation, which is where what a fusion does ends.
Letters: M rows, K hidden size.
"""

import pytest
import torch
from torch import nn

from helion_compile.frontend.capture import make_inspecting_backend
from tests.support.corpus.quantisers import torchao_row, vllm_token, without_clamp
from tests.support.fusing import E4M3, assert_bit_equal, bits, fused, randn, run
from tests.support.needs import uint8_products
from tests.support.numerics import fp8_steps, relative_error, rows_with_special_values

FILES = (__file__, torchao_row.__code__.co_filename)  # where the functions stand
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
EPS = 1e-6
K = 256


def rms_norm(x, weight, eps=EPS):
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def weight_of(k, dtype=torch.bfloat16):
    return (1 + 0.1 * randn(k, seed=9, dtype=torch.float32)).to(dtype)


class TestPatterns:
    """The same meaning in any order of words becomes the same kernel, bit-equal in exact numerics."""

    @pytest.mark.parametrize("quantize", [torchao_row, vllm_token, without_clamp])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_quantisers(self, quantize, dtype):
        x = randn(13, 250, dtype=dtype)
        results, record = run(quantize, x, numerics="exact")
        assert fused(record) == ["quant"]
        assert_bit_equal(results, quantize(x))

    def test_another_fp8_and_another_range(self):
        def function(x):
            scale = x.abs().amax(-1, keepdim=True).float() / 57344.0
            narrow = x.abs().amax(-1, keepdim=True).float() / 240.0
            return (
                *((x.float() / scale).clamp(-57344.0, 57344.0).to(torch.float8_e5m2), scale),
                *((x.float() / narrow).clamp(-240.0, 240.0).to(E4M3), narrow),
            )

        results, record = run(function, randn(8, K), numerics="exact")
        assert fused(record) == ["quant", "quant"]
        assert_bit_equal(results, function(randn(8, K)))

    @pytest.mark.parametrize("rounded_with_the_result", [False, True])
    def test_an_fp32_weight_on_a_bf16_input(self, rounded_with_the_result):
        def function(x, weight):
            if not rounded_with_the_result:
                norm = rms_norm(x, weight)  # fp32
            else:
                x32 = x.float()
                norm = (weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS))).to(x.dtype)
            return *torchao_row(norm), norm * 2

        args = randn(8, K), weight_of(K, torch.float32)
        results, record = run(function, *args, numerics="exact")
        assert fused(record) == ["norm_quant"]
        assert_bit_equal(results, function(*args))

    @pytest.mark.parametrize("swapped", [False, True])
    @pytest.mark.parametrize("read", ["sum", "norm", "both", "neither"])
    def test_the_sum_and_the_norm_read_elsewhere(self, swapped, read):
        def function(x, residual, weight):
            total = residual + x if swapped else x + residual
            norm = rms_norm(total, weight)
            return (
                *torchao_row(norm),
                *((total * 2,) if read in ("sum", "both") else ()),
                *((norm * 2,) if read in ("norm", "both") else ()),
            )

        args = randn(2, 8, K), randn(2, 8, K, seed=1), weight_of(K)
        results, record = run(function, *args, numerics="exact")
        assert fused(record) == ["norm_quant"]
        assert ("sum" in record.sites[0].shapes) == (read in ("sum", "both"))
        assert ("out" in record.sites[0].shapes) == (read in ("norm", "both"))
        assert_bit_equal(results, function(*args))

    def test_nn_rms_norm(self):
        norm = nn.RMSNorm(K, eps=EPS, dtype=torch.bfloat16).requires_grad_(False)
        norm.weight.copy_(weight_of(K))
        x = randn(8, K)
        results, record = run(lambda x: torchao_row(norm(x)), x, numerics="exact")
        assert fused(record) == ["norm_quant"]
        # nn.RMSNorm's own CPU kernel sums in another order: up to the last bit of the mean.
        expected_q, _ = torchao_row(norm(x))
        assert fp8_steps(results[0], expected_q).max() <= 1

    @pytest.mark.parametrize(
        "product",
        [
            lambda q, b: torch._int_mm(q, b),
            pytest.param(lambda q, b: torch._int_mm((q.to(torch.int32) + 128).to(torch.uint8), b), marks=uint8_products),
            lambda q, b: torch.mm(q.to(torch.int32), b.to(torch.int32)),
            lambda q, b: q.float() @ b.float(),
        ],
    )
    def test_products_of_integers_as_a_cpu_computes_them(self, product):
        def function(x, weight, b):
            norm = rms_norm(x, weight)
            scale = (norm.abs().amax(-1, keepdim=True).float() / 127.0).clamp_min(1e-7)
            return product((norm.float() / scale).round().clamp(-128, 127).to(torch.int8), b), scale

        b = (16 * randn(K, 32, dtype=torch.float32)).to(torch.int8)
        args = randn(32, K), weight_of(K), b
        result, record = run(function, *args, numerics="exact")
        assert fused(record) == ["norm_quant"]
        assert_bit_equal(result, run(function, *args, only=[])[0])

    def test_a_weight_computed_in_the_graph(self):
        def function(x, weight):
            return torchao_row(rms_norm(x, weight + 1))

        args = randn(8, K), weight_of(K) - 1
        results, record = run(function, *args, numerics="exact")
        assert fused(record) == ["norm_quant"]
        assert_bit_equal(results, function(*args))

    def test_two_norms_of_one_sum(self):
        def function(x, residual, w1, w2):
            total = x + residual
            return *torchao_row(rms_norm(total, w1)), *torchao_row(rms_norm(total, w2)), total

        args = randn(8, K), randn(8, K, seed=1), weight_of(K), weight_of(K) + 1
        results, record = run(function, *args, numerics="exact")
        assert fused(record) == ["norm_quant", "norm_quant"]
        assert_bit_equal(results, function(*args))


def chain(x, residual, weight):
    total = x + residual
    return *torchao_row(rms_norm(total, weight)), total


class TestSizes:
    @pytest.mark.parametrize("numerics", ["default", "exact"])
    def test_any_number_of_rows_through_one_graph(self, numerics):
        found = []
        backend = make_inspecting_backend(found, options={"strict": True, "numerics": numerics})
        compiled = torch.compile(chain, backend=backend, dynamic=True, fullgraph=True)
        for m in (13, 257, 2, 1, 0):
            args = randn(m, K), randn(m, K, seed=1), weight_of(K)
            for tensor in args:
                torch._dynamo.mark_static(tensor, tensor.dim() - 1)
            q, scale, total = compiled(*args)
            expected_q, _, expected_total = chain(*args)
            assert q.shape == (m, K) and scale.shape == (m, 1)
            assert torch.equal(total, expected_total)
            assert m == 0 or fp8_steps(q, expected_q).max() <= (1 if numerics == "default" else 0)
        assert [fused(graph.record) for graph in found] == [["norm_quant"]] * 3  # Dynamo makes its own for 1 and for 0

    @pytest.mark.parametrize("shape", [(K,), (2, 3, K), (1, 1, K)], ids=str)
    def test_any_number_of_leading_dimensions(self, shape):
        def function(x, weight):
            return torchao_row(rms_norm(x, weight))

        args = randn(*shape), weight_of(K)
        results, record = run(function, *args, numerics="exact")
        assert fused(record) == ["norm_quant"]
        assert_bit_equal(results, function(*args))


class TestNumerics:
    """On a CPU a kernel is its reference; tests/gpu shows the same of the kernels themselves."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("shape", [(13, 257), (257, 1000)], ids=str)
    def test_exact_is_eager_bit_for_bit(self, dtype, shape):
        """Also behind the mean, where a GPU kernel sums in its own order: the reference calls eager's torch.mean."""
        args = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype, seed=1), weight_of(shape[1], dtype)
        results, record = run(chain, *args, numerics="exact")
        assert fused(record) == ["norm_quant"]
        assert_bit_equal(results, chain(*args))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_exact_keeps_the_bits_of_torchs_layer_norm(self, dtype):
        """Its mean and variance come from one torch.var_mean, whose bits are not those of two torch.mean."""

        def function(x, weight, bias):
            return torchao_row(nn.functional.layer_norm(x, (K,), weight, bias))

        args = randn(64, K, dtype=dtype) * 3 + 1, weight_of(K, dtype), randn(K, seed=3, dtype=dtype)
        results, record = run(function, *args, numerics="exact")
        assert fused(record) == ["norm_quant"]
        assert_bit_equal(results, run(function, *args, only=[])[0])

    @pytest.mark.parametrize("quantize", [torchao_row, vllm_token, without_clamp])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_exact_is_eager_for_special_rows(self, quantize, dtype):
        """All zero, inf, NaN, one huge outlier, tiny values: what eager makes of them, NaNs included."""

        def function(x, weight):
            return *quantize(x), *quantize(rms_norm(x, weight))

        torch.manual_seed(0)
        args = rows_with_special_values(K, dtype, "cpu"), weight_of(K, dtype)
        results, record = run(function, *args, numerics="exact")
        assert sorted(fused(record)) == ["norm_quant", "quant"]
        assert_bit_equal(results, function(*args))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_default_is_as_near_to_fp64_as_inductor_and_one_step_from_it(self, dtype):
        def function(x, residual, weight):
            return *chain(x, residual, weight), *torchao_row(x)

        torch.manual_seed(0)
        k, special = 1000, slice(0, 8)
        x, residual, weight = randn(257, k, dtype=dtype), randn(257, k, dtype=dtype, seed=1), weight_of(k, dtype)
        x[special] = rows_with_special_values(k, dtype, "cpu")
        residual[special] = 0
        ours, record = run(function, x, residual, weight)
        assert sorted(fused(record)) == ["norm_quant", "quant"]
        inductor = torch.compile(function, backend="inductor", dynamic=False, fullgraph=True)
        theirs = inductor(x, residual, weight)

        q, scale, _, plain_q, plain_scale = (tensor[8:].double() for tensor in ours)
        their_q, their_scale, _, their_plain_q, their_plain_scale = (tensor[8:].double() for tensor in theirs)
        for index in (0, 3):
            assert fp8_steps(ours[index], theirs[index]).max() <= 1
        assert torch.equal(bits(ours[2]), bits(theirs[2]))
        x64 = x[8:].double() + residual[8:].double()
        truth = x64 * torch.rsqrt(x64.pow(2).mean(-1, keepdim=True) + EPS) * weight.double()
        # Both round at the same places but for the last bits of fp32, which move single bytes up or down at random: of
        # the error that fp8 makes, 1e-3 is more than such bytes can add.
        assert relative_error(q * scale, truth) <= relative_error(their_q * their_scale, truth) * 1.001
        error, their_error = (
            relative_error(a * b, x[8:]) for a, b in ((plain_q, plain_scale), (their_plain_q, their_plain_scale))
        )
        assert error <= their_error * 1.001


def of_both_ends(x, floor=None, swapped=False):
    ends = -x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    amax = torch.maximum(*reversed(ends)) if swapped else torch.maximum(*ends)
    scale = amax.float() / 448.0 if floor is None else (amax.float() / 448.0).clamp(min=floor)
    return (x.float() / scale).clamp(-448.0, 448.0).to(E4M3), scale


class TestSignOfAZeroScale:
    """max(-min(x), max(x)) of zeros: eager's sign depends on the order of both, and on where in a vector the row stands."""

    @pytest.mark.parametrize("swapped", [False, True])
    @pytest.mark.parametrize("zero", [0.0, -0.0])
    def test_exact_leaves_it_to_eager(self, zero, swapped):
        x = torch.full((40, K), zero, dtype=torch.bfloat16)
        (_, scale), record = run(lambda x: of_both_ends(x, swapped=swapped), x, numerics="exact")
        assert not record.sites and any("0 or -0" in str(refusal) for refusal in record.refusals)
        assert torch.equal(scale.signbit(), of_both_ends(x, swapped=swapped)[1].signbit())

    def test_a_floor_or_default_numerics_has_no_such_scale(self):
        x = torch.zeros(40, K, dtype=torch.bfloat16)
        results, record = run(lambda x: of_both_ends(x, floor=1e-6), x, numerics="exact")
        assert fused(record) == ["quant"]
        assert_bit_equal(results, of_both_ends(x, floor=1e-6))
        assert fused(run(of_both_ends, x)[1]) == ["quant"]
