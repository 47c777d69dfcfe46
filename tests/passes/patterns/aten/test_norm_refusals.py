# SPDX-License-Identifier: Apache-2.0
"""Graphs that differ from a norm in one operation: left alone, and the reason says why.

Those over a mean of squares are in test_norm.py.
"""

import functools

import pytest
import torch
import torch.nn.functional as F

from helion_compile.passes.match.matched_graph import match_graph
from tests.support import checks, programs
from tests.support.capture import capture

BF16, FP32 = torch.bfloat16, torch.float32
EPS = 1e-5
X = programs.tensor(8, 64)
OTHER = programs.tensor(8, 64, seed=1)

refused = functools.partial(checks.refused, "norm")


class TestLayerNorm:
    def test_a_variance_of_a_sample(self):
        def program(x):
            x32 = x.float()
            return ((x32 - x32.mean(-1, keepdim=True)) * torch.rsqrt(x32.var(-1, keepdim=True) + EPS)).to(x.dtype)

        assert "divides by K - 1; a variance that divides by K fuses" in refused(program, X)

    def test_eps_beside_the_root(self):
        def program(x):
            x32 = x.float()
            return (x32 - x32.mean(-1, keepdim=True)) / (x32.std(-1, keepdim=True, unbiased=False) + EPS)

        assert refused(program, X).startswith("there is no eps under the root")

    def test_a_variance_as_a_difference(self):
        def program(x):
            x32 = x.float()
            mean = x32.mean(-1, keepdim=True)
            variance = x32.pow(2).mean(-1, keepdim=True) - mean.pow(2)
            return ((x32 - mean) * torch.rsqrt(variance + EPS)).to(x.dtype)

        assert "a variance as mean(x²) - mean(x)² loses digits" in refused(program, X)

    def test_the_mean_of_another_tensor(self):
        def program(x, other):
            x32 = x.float()
            variance = x32.var(-1, keepdim=True, unbiased=False)
            return ((x32 - other.float().mean(-1, keepdim=True)) * torch.rsqrt(variance + EPS)).to(x.dtype)

        assert "with the x whose mean was taken, found aten.mul.Tensor" in refused(program, X, OTHER)

    def test_values_with_their_mean(self):
        def program(x):
            x32 = x.float()
            return (x32 * torch.rsqrt(x32.var(-1, keepdim=True, unbiased=False) + EPS)).to(x.dtype)

        assert "with the x whose mean was taken, found aten.mul.Tensor" in refused(program, X)

    def test_statistics_in_bf16(self):
        def program(x):
            centred = x - x.mean(-1, keepdim=True)
            return centred * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + EPS)

        assert refused(program, X) == "the mean is taken in bf16; a norm with its mean in fp32 fuses"

    def test_two_dimensions(self):
        assert "over [0, 1] of 2" in refused(lambda x: F.layer_norm(x, (8, 64)), X)

    def test_a_bias_for_each_token_stays_outside(self):
        matched = match_graph(
            capture(lambda x, w, b: F.layer_norm(x.float(), (64,)) * w.float() + b.float(), X, X[0], OTHER).graph
        )
        (match,) = matched.matches
        assert match.op.weight_dtype is BF16 and match.op.bias_dtype is None


class TestRoot:
    def test_a_bound_instead_of_eps(self):
        def program(x):
            x32 = x.float()
            return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True).clamp(min=EPS))).to(x.dtype)

        assert "an eps that bounds the mean is another function" in refused(program, X)

    def test_no_eps(self):
        def program(x):
            x32 = x.float()
            return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True))).to(x.dtype)

        assert refused(program, X).startswith("there is no eps under the root")

    def test_multiplied_by_the_root(self):
        def program(x):
            x32 = x.float()
            return (x32 * torch.sqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)

        assert refused(program, X).startswith("expected x / sqrt(…) in fp32")

    def test_divided_by_the_inverse_root(self):
        def program(x):
            x32 = x.float()
            return (x32 / torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)

        assert refused(program, X).startswith("expected x * rsqrt(…) in fp32")

    def test_another_power(self):
        def program(x):
            x32 = x.float()
            return (x32 * (x32.pow(2).mean(-1, keepdim=True) + EPS) ** -0.25).to(x.dtype)

        matched = match_graph(capture(program, X).graph)
        assert not matched.matches and not matched.refusals

    def test_a_weight_in_a_column(self):
        def program(x, weight):
            x32 = x.float()
            return weight[:, None] * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + EPS)).to(x.dtype)

        assert "has shape [64, 1]; shape [64] fuses" in refused(program, programs.tensor(64, 64), X[0])


class TestResidual:
    """What is read is a norm of less."""

    def only(self, function, *args):
        matched = match_graph(capture(function, *args).graph)
        assert not matched.refusals
        (match,) = matched.matches
        return match

    def test_a_difference(self):
        assert not self.only(lambda x, r, w: programs.llama_norm(x - r, w), X, OTHER, X[0]).op.residual

    @pytest.mark.parametrize(
        "multiplied",
        [lambda x: x * X[0, 0], lambda x: x * x, lambda x: x * x.mean()],
        ids=["a tensor", "itself", "a computed number"],
    )
    def test_a_multiplier_that_is_no_number(self, multiplied):
        match = self.only(lambda x, r, w: programs.llama_norm(r + multiplied(x), w), X, OTHER, X[0])
        assert match.op.residual and match.op.residual_multiplier == 1
        assert match.inputs["residual"].target is torch.ops.aten.mul.Tensor

    def test_a_product_that_others_read(self):
        def program(x, r, w):
            scaled = x * 0.22
            return programs.llama_norm(r + scaled, w), scaled.sin()

        assert self.only(program, X, OTHER, X[0]).op.residual_multiplier == 1

    def test_a_sum_in_fp32_that_nobody_rounds(self):
        """It is a plain sum, of two fp32 tensors."""

        def program(x, r, w):
            total = x.float() + r.float()
            return (w * (total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + EPS))).to(BF16)

        op = self.only(program, X, OTHER, X[0]).op
        assert op.residual and not op.unrounded_sum and op.x_dtype is FP32
