# SPDX-License-Identifier: Apache-2.0
"""What of embeddings by complex products becomes ``norm_rope`` and ``rope``, from torch code through the pass to results.

Letters: B sequences, S tokens, H heads, D elements of a head.
"""

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.utils import run_and_get_code
from transformers.models.llama4.modeling_llama4 import apply_rotary_emb

from tests.support.fusing import fused, randn, refused, run
from tests.support.numerics import relative_error

B, S, H, D = 2, 6, 4, 64
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
NEAR = {"rtol": 2**-6, "atol": 2**-6}  # see test_rope


def products(x, freqs):
    """As Qwen-Image, Z-Image and, of complex128 angles, Lumina 2 in diffusers."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * freqs).flatten(3).type_as(x)


def products_in_fp64(x, freqs):
    """As Wan's first version in diffusers."""
    pairs = torch.view_as_complex(x.to(torch.float64).unflatten(3, (-1, 2)))
    return torch.view_as_real(pairs * freqs).flatten(3, 4).type_as(x)


def diffusers_norm(x, weight):
    variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
    return (x * torch.rsqrt(variance + 1e-6)).to(weight.dtype) * weight


def frequencies(dtype, *shape):
    angles = torch.randn(*shape, D // 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.polar(torch.ones_like(angles), angles).to(dtype)


def arguments(dtype=torch.bfloat16):
    """What a projection gives, and the weight of a norm of each head."""
    return randn(B, S, H * D, dtype=dtype), (1 + 0.1 * randn(D, seed=9, dtype=torch.float32)).to(dtype)


class TestComplexRope:
    def arguments(self, dtype=torch.bfloat16):
        angles = randn(B, S, D // 2, dtype=torch.float32, seed=3)
        freqs = torch.polar(torch.ones_like(angles), angles)
        return randn(B, S, H, D, dtype=dtype), randn(B, S, 2, D, dtype=dtype, seed=1), freqs

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_default(self, dtype):
        args = self.arguments(dtype)
        results, record = run(apply_rotary_emb, *args)
        assert fused(record) == ["rope", "rope"]
        q, k, freqs = args
        for result, x, eager in zip(results, (q, k), apply_rotary_emb(*args), strict=True):
            pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
            truth = torch.view_as_real(pairs * freqs.to(torch.complex128).unsqueeze(2)).flatten(-2)
            assert relative_error(result, truth) <= relative_error(eager, truth) * 1.001
            assert result.dtype == dtype and result.stride() == eager.stride()

    @pytest.mark.usefixtures("kernels_are_called")
    def test_no_other_kernel_is_left(self):
        with torch.no_grad():
            compiled = torch.compile(apply_rotary_emb, backend="helion", fullgraph=True)
            _, (code,) = run_and_get_code(compiled, *self.arguments())
        call = code.partition("def call(")[2].partition("def get_args")[0]
        assert call.count(".call(") == 2 and "cpp_fused" not in call and "aten.mul" not in call

    def test_exact_leaves_it_alone(self):
        reason = "how a complex product is rounded is the device's own"
        refused(apply_rotary_emb, *self.arguments(), reason=reason, numerics="exact")


class TestNormComplexRope:
    FORMS = [(products, torch.complex64), (products, torch.complex128), (products_in_fp64, torch.complex128)]

    @pytest.mark.parametrize(("rotate", "dtype"), FORMS, ids=lambda value: getattr(value, "__name__", str(value)))
    def test_default_is_as_near_to_fp64_as_eager(self, rotate, dtype):
        def program(hidden, weight, freqs):
            return rotate(diffusers_norm(hidden.view(B, S, H, D), weight), freqs)

        hidden, weight = arguments()
        args = hidden, weight, frequencies(dtype, B, S, 1)
        result, record = run(program, *args)
        assert fused(record) == ["norm_rope"]
        x = hidden.view(B, S, H, D).double()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight.double()
        truth = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * args[2]).flatten(-2)
        eager = program(*args)
        assert relative_error(result, truth) <= relative_error(eager, truth) * 1.001
        assert result.dtype == eager.dtype and result.stride() == eager.stride()

    @pytest.mark.usefixtures("kernels_are_called")
    def test_no_other_kernel_is_left(self):
        """Text and image have norms of their own, and are joined behind the embedding."""

        def program(image, text, weights, freqs):
            parts = [(text, weights[0], freqs[:, :2]), (image, weights[1], freqs[:, 2:])]
            joint = torch.cat([products(diffusers_norm(x.view(B, -1, H, D), w), f) for x, w, f in parts], 1).transpose(1, 2)
            return F.scaled_dot_product_attention(joint, joint, joint)

        image, weight = arguments()
        args = image, randn(B, 2, H * D, seed=2), torch.stack([weight, 2 * weight]), frequencies(torch.complex64, 1, S + 2, 1)
        with torch.no_grad():
            compiled = torch.compile(program, backend="helion", fullgraph=True)
            result, (code,) = run_and_get_code(compiled, *args)
        call = code.partition("def call(")[2].partition("def get_args")[0]
        assert call.count(".call(") == 2 and "aten.mul" not in call
        torch.testing.assert_close(result, program(*args), **NEAR)

    def test_a_norm_over_all_heads_before_heads_and_tokens_change_places(self):
        def program(hidden, weight, freqs, kv):
            q = F.rms_norm(hidden, (H * D,), weight, 1e-6).unflatten(2, (H, -1)).transpose(1, 2)
            return F.scaled_dot_product_attention(products_in_fp64(q, freqs), kv, kv)

        hidden, _ = arguments()
        args = hidden, 1 + 0.1 * randn(H * D, seed=9), frequencies(torch.complex128, 1, 1, S), randn(B, H, S, D)
        result, record = run(program, *args)
        assert fused(record) == ["norm_rope"]
        torch.testing.assert_close(result, program(*args), **NEAR)

    def test_exact_leaves_it_alone(self):
        def program(hidden, weight, freqs):
            return products(diffusers_norm(hidden.view(B, S, H, D), weight), freqs)

        hidden, weight = arguments()
        args = hidden, weight, frequencies(torch.complex64, 1, S, 1)
        refused(program, *args, reason="how a complex product is rounded is the device's own", numerics="exact")

    @pytest.mark.parametrize("rotate", [products, products_in_fp64], ids=lambda function: function.__name__)
    def test_fp32_with_products_in_fp64(self, rotate):
        def program(hidden, weight, freqs):
            return rotate(diffusers_norm(hidden.view(B, S, H, D), weight), freqs)

        hidden, weight = arguments(torch.float32)
        args = hidden, weight, frequencies(torch.complex128, 1, S, 1)
        refused(program, *args, reason="x is fp32 and its product of complex128")

    def test_behind_a_pointwise_kernel_the_embedding_alone_fuses(self):
        """Inductor's kernel of sum and norm writes once what both would write."""

        def program(hidden, weight, freqs):
            return products(diffusers_norm((hidden + 1).view(B, S, H, D), weight), freqs)

        hidden, weight = arguments()
        args = hidden, weight, frequencies(torch.complex64, 1, S, 1)
        result, record = run(program, *args)
        assert fused(record) == ["rope"]
        assert any("x comes from aten.add.Tensor at" in str(refusal) for refusal in record.refusals)
        torch.testing.assert_close(result, program(*args), **NEAR)
