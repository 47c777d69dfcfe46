# SPDX-License-Identifier: Apache-2.0
"""What becomes ``norm_rope`` and ``rope`` and what does not, from torch code through the pass to results on a CPU.

Letters: B sequences, S tokens, H heads, D elements of a head.
"""

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.utils import run_and_get_code

from tests.support.fusing import assert_bit_equal, fused, randn, refused, run
from tests.support.numerics import relative_error
from tests.support.pairwise import pairwise

B, S, H, D = 2, 6, 4, 64
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
# Attention of queries that keep what the model rounds: they are off by 2^-8 at most, a score of some units by less than 2^-6,
# and so are the weights of values of some units. The result is rounded to bf16 itself.
NEAR = {"rtol": 2**-6, "atol": 2**-6}


def norm(x, weight):
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def olmo_norm(x, weight):
    x32 = x.float()
    return (weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6))).to(x.dtype)


def gemma_norm(x, weight):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + weight.float())).type_as(x)


def rotate_half(x, cos, sin):
    x1, x2 = x.chunk(2, -1)
    return x * cos + torch.cat((-x2, x1), -1) * sin


def rotate_pairs(x, cos, sin):
    x1, x2 = x[..., ::2], x[..., 1::2]
    return x * cos + torch.stack((-x2, x1), -1).flatten(-2) * sin


def attention(rotate, normalise=norm):
    """Queries as HF makes them of a projection, keys and values given: [B, S, H * D] -> attention's result."""

    def program(hidden, weight, cos, sin, kv):
        q = normalise(hidden.view(*hidden.shape[:2], H, D), weight).transpose(1, 2)
        return F.scaled_dot_product_attention(rotate(q, cos.unsqueeze(1), sin.unsqueeze(1)), kv, kv)

    return program


def arguments(dtype=torch.bfloat16, tables=B, width=D):
    angles = randn(tables, S, width, dtype=torch.float32, seed=3)
    weight = (1 + 0.1 * randn(D, seed=9, dtype=torch.float32)).to(dtype)
    tables = angles.cos().to(dtype), angles.sin().to(dtype)
    return randn(B, S, H * D, dtype=dtype), weight, *tables, randn(B, H, S, D, dtype=dtype)


@pytest.mark.parametrize(
    ("rotate", "normalise", "dtype"),
    pairwise((rotate_half, rotate_pairs), (norm, olmo_norm, gemma_norm), DTYPES),
    ids=lambda value: getattr(value, "__name__", str(value)),
)
class TestNormRope:
    def test_exact_is_the_graph_bit_for_bit(self, rotate, normalise, dtype):
        program, args = attention(rotate, normalise), arguments(dtype)
        result, record = run(program, *args, numerics="exact")
        assert fused(record) == ["norm_rope"]
        assert_bit_equal([result], [run(program, *args, only=[])[0]])

    def test_default_is_as_near_to_fp64_as_inductor(self, rotate, normalise, dtype):
        def program(hidden, weight, cos, sin):
            q = normalise(hidden.view(B, S, H, D), weight).transpose(1, 2)
            return rotate(q, cos.unsqueeze(1), sin.unsqueeze(1))

        args = arguments(dtype)[:-1]
        result, record = run(program, *args)
        assert fused(record) == ["norm_rope"]
        inductor = torch.compile(program, backend="inductor", fullgraph=True)(*args)
        x, weight, cos, sin = (tensor.double() for tensor in args)
        x = x.view(B, S, H, D)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (weight + (normalise is gemma_norm))
        truth = rotate(x.transpose(1, 2), cos.unsqueeze(1), sin.unsqueeze(1))
        ours, theirs = relative_error(result, truth), relative_error(inductor, truth)
        # In fp32 there is but the last bit: the C++ compiler contracts products and sums, plain torch, which stands in for
        # the kernel on a CPU, does not.
        assert ours <= theirs * (1.1 if dtype == torch.float32 else 1.001)
        assert result.stride() == inductor.stride()


def test_a_table_that_sequences_share():
    program, args = attention(rotate_half), arguments(tables=1)
    result, record = run(program, *args, numerics="exact")
    assert fused(record) == ["norm_rope"]
    assert_bit_equal([result], [run(program, *args, only=[])[0]])


@pytest.mark.usefixtures("kernels_are_called")
@pytest.mark.parametrize("tables", [1, B])
def test_nothing_is_copied(tables):
    with torch.no_grad():
        compiled = torch.compile(attention(rotate_half), backend="helion", fullgraph=True)
        _, (code,) = run_and_get_code(compiled, *arguments(tables=tables))
    call = code.partition("def call(")[2].partition("def get_args")[0]
    assert call.count(".call(") == 1 and "cpp_fused" not in call


@pytest.mark.parametrize("turned", [16, 32])
@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_a_part_of_a_head(numerics, turned):
    """As Laguna and GLM: the norm is over all of the head, the rest of which keeps what the norm gives."""

    def program(hidden, weight, cos, sin, kv):
        q = norm(hidden.view(B, S, H, D), weight).transpose(1, 2)
        rotated = rotate_half(q[..., :turned], cos.unsqueeze(1), sin.unsqueeze(1))
        return F.scaled_dot_product_attention(torch.cat((rotated, q[..., turned:]), -1), kv, kv)

    args = arguments(width=turned)
    result, record = run(program, *args, numerics=numerics)
    assert fused(record) == ["norm_rope"] and not record.refusals
    if numerics == "exact":
        assert_bit_equal([result], [run(program, *args, only=[])[0]])
    else:
        assert relative_error(result, program(*(tensor.double() for tensor in args))) < 2**-8


def test_a_norm_over_all_heads():
    """As Olmo2: the norm of [B, S, H * D], then heads."""

    def program(hidden, weight, cos, sin, kv):
        q = norm(hidden, weight).view(B, S, H, D).transpose(1, 2)
        return F.scaled_dot_product_attention(rotate_half(q, cos.unsqueeze(1), sin.unsqueeze(1)), kv, kv)

    hidden, _, *rest = arguments()
    args = hidden, 1 + 0.1 * randn(H * D, seed=9), *rest
    result, record = run(program, *args, numerics="exact")
    assert fused(record) == ["norm_rope"]
    assert_bit_equal([result], [run(program, *args, only=[])[0]])


@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_strided_writes_behind_a_norm_over_all_heads(numerics):
    """As Wan: the angles are fp32, and so the writes round."""

    def program(hidden, weight, cos, sin, kv):
        q = F.rms_norm(hidden, (H * D,), weight, 1e-6).unflatten(2, (H, -1))
        x1, x2 = q.unflatten(-1, (-1, 2)).unbind(-1)
        out = torch.empty_like(q)
        out[..., 0::2] = x1 * cos[..., 0::2] - x2 * sin[..., 1::2]
        out[..., 1::2] = x1 * sin[..., 1::2] + x2 * cos[..., 0::2]
        return F.scaled_dot_product_attention(out.type_as(q).transpose(1, 2), kv, kv)

    hidden, _, _, _, kv = arguments()
    angles = randn(1, S, 1, D, dtype=torch.float32, seed=3)
    args = hidden, 1 + 0.1 * randn(H * D, seed=9), angles.cos(), angles.sin(), kv
    result, record = run(program, *args, numerics=numerics)
    assert fused(record) == ["norm_rope"]
    expected, _ = run(program, *args, only=[])
    if numerics == "exact":
        assert_bit_equal([result], [expected])
    else:
        torch.testing.assert_close(result, expected, **NEAR)


@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_any_number_of_tokens_through_one_graph(numerics):
    program, args = attention(rotate_half), list(arguments())
    for index in (0, 2, 3):
        torch._dynamo.mark_dynamic(args[index], 1)
    torch._dynamo.mark_dynamic(args[4], 2)
    result, record = run(program, *args, dynamic=None, numerics=numerics)
    assert fused(record) == ["norm_rope"] and "s" in record.sites[0].shapes["x"]
    expected = run(program, *arguments(), only=[])[0]
    torch.testing.assert_close(result, expected, **NEAR)


class TestLeftAlone:
    def refused(self, program, *args, reason):
        refused(program, *args, reason=reason)

    def test_a_result_that_a_pointwise_kernel_reads(self):
        def program(hidden, weight, cos, sin, kv):
            q = norm(hidden.view(B, S, H, D), weight).transpose(1, 2)
            cache = kv.clone()
            cache[:, :, 1:] = rotate_half(q, cos.unsqueeze(1), sin.unsqueeze(1))[:, :, 1:]
            return cache

        self.refused(
            program, *arguments(), reason="into whose kernel Inductor puts this, which would else be written and read"
        )

    def test_keys_that_are_repeated_for_groups(self):
        def program(hidden, weight, cos, sin, kv):
            k = norm(hidden.view(B, S, H, D), weight).transpose(1, 2)
            k = rotate_half(k, cos.unsqueeze(1), sin.unsqueeze(1))
            k = k[:, :, None].expand(B, H, 2, S, D).reshape(B, 2 * H, S, D)
            return k @ kv.repeat(1, 2, 1, 1).transpose(2, 3)

        self.refused(
            program, *arguments(), reason="into whose kernel Inductor puts this, which would else be written and read"
        )

    def test_an_x_that_a_pointwise_kernel_makes(self):
        def program(hidden, *rest):
            return attention(rotate_half)(hidden.cos(), *rest)

        self.refused(program, *arguments(), reason="x comes from aten.cos.default at")

    def test_a_norm_that_is_read_without_the_embedding(self):
        def program(hidden, weight, cos, sin, kv):
            q = norm(hidden.view(B, S, H, D), weight)
            rotated = rotate_half(q.transpose(1, 2), cos.unsqueeze(1), sin.unsqueeze(1))
            return F.scaled_dot_product_attention(rotated, kv, kv), q

        self.refused(program, *arguments(), reason="the norm is also read without the embedding")

    def test_a_norm_by_a_square_root(self):
        def program(hidden, weight, cos, sin, kv):
            x32 = hidden.view(B, S, H, D).float()
            q = weight * (x32 / torch.sqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(hidden.dtype)
            return F.scaled_dot_product_attention(rotate_half(q.transpose(1, 2), cos[:, None], sin[:, None]), kv, kv)

        self.refused(program, *arguments(), reason="a product with rsqrt(mean + eps) in fp32 fuses")

    def test_pairs_rotated_by_minus_the_angle(self):
        def inverse(x, cos, sin):
            x1, x2 = x.chunk(2, -1)
            return x * cos + torch.cat((x2, -x1), -1) * sin

        self.refused(attention(inverse), *arguments(), reason="pairs are rotated by minus the angle, as by cat([x2, -x1])")

    def test_a_layer_norm_of_heads(self):
        """As Persimmon and CogVideoX."""

        def program(hidden, weight, cos, sin, kv):
            q = F.layer_norm(hidden.view(B, S, H, D), (D,), weight, weight).transpose(1, 2)
            return F.scaled_dot_product_attention(rotate_half(q, cos[:, None], sin[:, None]), kv, kv)

        self.refused(program, *arguments(), reason="an RMSNorm without residual and bias fuses")

    def test_angles_of_each_head(self):
        def program(hidden, weight, cos, sin, kv):
            q = norm(hidden.view(B, S, H, D), weight).transpose(1, 2)
            return F.scaled_dot_product_attention(rotate_half(q, cos, sin), kv, kv)

        hidden, weight, _, _, kv = arguments()
        tables = randn(B, H, S, D, seed=4), randn(B, H, S, D, seed=5)
        self.refused(program, hidden, weight, *tables, kv, reason="angles that all heads share fuse")

    def test_a_norm_in_fp32(self):
        def program(hidden, weight, cos, sin, kv):
            q = norm(hidden.view(B, S, H, D).float(), weight).transpose(1, 2)
            return rotate_half(q, cos.unsqueeze(1), sin.unsqueeze(1)).to(torch.bfloat16)

        self.refused(program, *arguments(), reason="the norm takes bf16 and gives fp32")

    def test_embeddings_in_real_numbers_without_a_norm(self):
        def program(q, cos, sin):
            return rotate_half(q, cos, sin)

        angles = randn(B, S, 1, D, seed=1)
        _, record = run(program, randn(B, S, H, D), angles.cos(), angles.sin())
        assert not record.sites and record.count_unfused() == {"Rope": 1}
