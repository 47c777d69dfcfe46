# SPDX-License-Identifier: Apache-2.0
"""``norm_quant`` leaves a graph as it is, and says why."""

import torch
from torch import nn

from helion_compile.frontend.capture import make_inspecting_backend
from tests.support.corpus.quantisers import torchao_row
from tests.support.fusing import E4M3, assert_bit_equal, fused, randn, run
from tests.support.numerics import fp8_steps, relative_error

FILES = (__file__, torchao_row.__code__.co_filename)  # where the functions stand


DTYPES = [torch.bfloat16, torch.float16, torch.float32]


EPS = 1e-6


K = 256


def rms_norm(x, weight, eps=EPS):
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def weight_of(k, dtype=torch.bfloat16):
    return (1 + 0.1 * randn(k, seed=9, dtype=torch.float32)).to(dtype)


class TestLeftAlone:
    """Near misses: each keeps its graph, with a reason that says what was found, and so keeps its results."""

    def refused(self, function, *args, reason, still=(), **options):
        result, record = run(function, *args, **options)
        assert fused(record) == list(still)
        reasons = [str(refusal) for refusal in record.refusals]
        assert any(reason in found for found in reasons), reasons
        assert all(refusal.location.file in FILES and refusal.location.line for refusal in record.refusals)
        unfused, _ = run(function, *args, only=[])
        assert_bit_equal(result, unfused)

    def test_bytes_that_something_else_reads(self):
        def function(x, weight):
            q, scale = torchao_row(rms_norm(x, weight))
            return q.float().topk(4).values, scale

        self.refused(function, randn(8, K), weight_of(K), reason="a fused kernel may change a byte by one step")

    def test_bytes_that_reach_a_product_as_something_else(self):
        def function(x, weight, b):
            q, scale = torchao_row(rms_norm(x, weight))
            return q.float().abs() @ b, scale

        self.refused(
            function, randn(8, K), weight_of(K), randn(K, 16).float(), reason="with only matmuls reading them it fuses"
        )

    def test_bytes_that_a_tensor_is_added_to(self):
        """Only a constant shifts all of them alike, as products of int8 on a CPU do it."""

        def function(x, weight, other, b):
            q, scale = torchao_row(rms_norm(x, weight))
            return (q.float() + other) @ b, scale

        tensors = randn(8, K).float(), randn(K, 16).float()
        self.refused(function, randn(8, K), weight_of(K), *tensors, reason="with only matmuls reading them it fuses")

    def test_a_static_scale_for_each_of_several_linears(self):
        def function(x, weight, *scales):
            norm = rms_norm(x, weight)
            return [(norm.float() / scale).clamp(-448.0, 448.0).to(E4M3) for scale in scales]

        scales = [torch.tensor(scale) for scale in (0.1, 0.2, 0.3)]
        reason = "3 static scales quantise one tensor, of which Inductor makes one kernel"
        self.refused(function, randn(8, K), weight_of(K), *scales, reason=reason)
        _, record = run(lambda *args: function(*args, args[-1]), randn(8, K), weight_of(K), scales[0])
        assert [(site.fusion, site.merged) for site in record.sites] == [("norm_quant", 2)]

    def test_a_last_dimension_that_is_not_contiguous(self):
        def function(x):
            return torchao_row(x.t())

        self.refused(function, randn(K, 8), reason="the last dimension of x is not contiguous")

    def test_rows_that_are_no_view(self):
        def function(x):
            return torchao_row(x.transpose(0, 1))

        self.refused(function, randn(4, 8, K), reason="is no view of rows; contiguous before, it fuses")

    def test_rows_that_are_quantised_in_other_rows(self):
        """A norm of each head, quantised by the token: the row that has one scale is not the one that has one mean."""

        def function(x, weight):
            return torchao_row(rms_norm(x.view(-1, 4, K // 4), weight).view(-1, K))

        reason = f"rows of {K // 4} elements are quantised in rows of {K}"
        self.refused(function, randn(8, K), weight_of(K // 4), reason=reason, still=["quant"], numerics="exact")

    def test_a_norm_over_another_dimension(self):
        def function(x, weight):
            x32 = x.float()
            norm = weight[:, None] * (x32 * torch.rsqrt(x32.pow(2).mean(0, keepdim=True) + EPS)).to(x.dtype)
            return torchao_row(norm)

        self.refused(
            function,
            randn(K, 8),
            weight_of(K),
            reason="a mean over the last dimension",
            still=["quant"],
            numerics="exact",
        )

    def test_an_eps_known_at_run_time(self):
        def function(x, weight, eps):
            return torchao_row(rms_norm(x, weight, eps))

        self.refused(
            function,
            randn(8, K),
            weight_of(K),
            torch.tensor(1e-5),
            reason="eps is known at run time only",
            still=["quant"],
            numerics="exact",
        )

    def test_one_scale_a_tensor(self):
        def function(x):
            scale = x.abs().max().float() / 448.0
            return (x.float() / scale).clamp(-448.0, 448.0).to(E4M3), scale

        self.refused(function, randn(8, K), reason="one scale per tensor is known when all of it was read")

    def test_another_fp8_that_nothing_bounds(self):
        def function(x):
            scale = x.abs().amax(-1, keepdim=True).float() / 57344.0
            return (x.float() / scale).to(torch.float8_e5m2), scale

        self.refused(function, randn(8, K), reason="nothing bounds the values before the cast to torch.float8_e5m2")

    def test_a_range_beyond_the_formats(self):
        def function(x):
            scale = x.abs().amax(-1, keepdim=True).float() / 480.0
            return (x.float() / scale).clamp(-480.0, 480.0).to(E4M3), scale

        self.refused(function, randn(8, K), reason="the values are clamped to [-480, 480], beyond the range of")

    def test_a_scale_in_fp64_in_exact_numerics(self):
        def function(x):
            scale = (x.abs().amax(-1, keepdim=True).double().clamp(min=1e-12) / 448.0).float()
            return (x.float() / scale).clamp(-448.0, 448.0).to(E4M3), scale

        self.refused(function, randn(8, K), reason="torch.float64", numerics="exact")
        assert fused(run(function, randn(8, K))[1]) == ["quant"]

    def test_a_size_that_is_dynamic_in_the_last_dimension(self):
        def function(x):
            return torchao_row(x)

        self.refused(function, randn(8, K), reason="the last dimension of x has a symbolic size", dynamic=True)

    def test_a_graph_for_training(self):
        norm = nn.RMSNorm(K, eps=EPS, dtype=torch.bfloat16)
        x = randn(8, K).requires_grad_()

        def function(x):
            y = norm(x)
            q, scale = torchao_row(y.detach())
            return y.float().sum(), q, scale

        found = []
        (total, q, scale) = torch.compile(function, backend=make_inspecting_backend(found), fullgraph=True)(x)
        assert all(graph.training for graph in found)
        assert "norm_quant" not in [site.fusion for graph in found for site in graph.record.sites]
        assert fp8_steps(q, torchao_row(norm(x).detach())[0]).max() <= 1  # nn.RMSNorm sums in another order on a CPU
        total.backward()
        compiled, x.grad = x.grad, None
        norm(x).float().sum().backward()
        assert relative_error(compiled, x.grad) < 2**-8  # bf16 gradients, computed in another order
