# SPDX-License-Identifier: Apache-2.0
"""``rope`` and ``norm_rope`` without a GPU: their bodies as plain torch, what they refuse, what default configs compile to.

Letters: B sequences, S tokens, H heads, D elements of a head, R of them rotated.
"""

import itertools

import pytest
import torch

from helion_compile.configs.case import Case
from helion_compile.kernels import norm_rope, rope
from helion_compile.tune.compiling import Target
from helion_compile.tune.pool import CompilePool
from tests.support.pairwise import pairwise

B, S, H = 2, 5, 3
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def tables(dtype, half):
    torch.manual_seed(1)
    return [torch.randn(B, S, half).to(dtype) for _ in range(4)]


def heads(dtype, d):
    torch.manual_seed(0)
    return torch.randn(B, H, S, d).to(dtype).transpose(1, 2)  # of strides that are not contiguous


def as_written(x, cos1, sin1, cos2, sin2, pairs):
    """In x's own dtype, as an eager model computes it."""
    cos1, sin1, cos2, sin2 = (table.unsqueeze(2) for table in (cos1, sin1, cos2, sin2))
    rotary_dim = 2 * cos1.size(-1)
    even, odd = (
        (slice(0, rotary_dim, 2), slice(1, rotary_dim, 2))
        if pairs == "interleaved"
        else (
            slice(rotary_dim // 2),
            slice(rotary_dim // 2, rotary_dim),
        )
    )
    out = x.clone()
    out[..., even] = x[..., even] * cos1 - x[..., odd] * sin1
    out[..., odd] = x[..., odd] * cos2 + x[..., even] * sin2
    return out


@pytest.mark.parametrize(
    ("pairs", "dtype", "sizes"), pairwise(("neox", "interleaved"), DTYPES, ((16, 16), (24, 16), (24, 24))), ids=str
)
class TestRope:
    @pytest.mark.parametrize("heads_first", [False, True])
    def test_exact_is_eager_bit_for_bit(self, bodies, pairs, dtype, sizes, heads_first):
        d, rotary_dim = sizes
        x, four = heads(dtype, d), tables(dtype, rotary_dim // 2)
        arguments = x, *four, pairs, dtype != torch.float32, heads_first, True
        expected = as_written(x, *four, pairs)
        for result in (bodies[rope](*arguments), rope.reference(*arguments)):
            assert result.is_contiguous() and result.dtype == dtype
            assert torch.equal(result.transpose(1, 2) if heads_first else result, expected)

    def test_default_is_nearer_to_fp64_than_eager(self, bodies, pairs, dtype, sizes):
        d, rotary_dim = sizes
        x, four = heads(dtype, d), tables(dtype, rotary_dim // 2)
        truth = as_written(x.double(), *(table.double() for table in four), pairs)
        arguments = x, *four, pairs, True, False, False
        for result in (bodies[rope](*arguments), rope.reference(*arguments)):
            assert (result - truth).norm() <= (as_written(x, *four, pairs) - truth).norm() * (1 + 1e-6)  # equal in fp32

    def test_tables_in_fp32(self, bodies, pairs, dtype, sizes):
        d, rotary_dim = sizes
        x, four = heads(dtype, d), tables(torch.float32, rotary_dim // 2)
        arguments = x, *four, pairs, False, False, True
        expected = as_written(x.float(), *four, pairs).to(dtype)
        for result in (bodies[rope](*arguments), rope.reference(*arguments)):
            assert torch.equal(result, expected)


@pytest.mark.parametrize(
    ("pairs", "cast_then_scale", "offset", "over_heads", "exact", "half"),
    pairwise(("neox", "interleaved"), (False, True), (0.0, 1.0), (False, True), (False, True), (8, 4)),
)
def test_the_body_of_norm_rope_computes_the_reference(bodies, pairs, cast_then_scale, offset, over_heads, exact, half):
    x, four = heads(torch.bfloat16, 16).contiguous(), tables(torch.bfloat16, half)
    weight = torch.randn(16 * (H if over_heads else 1)).bfloat16()
    arguments = x, weight, *four, 1e-6, offset, cast_then_scale, over_heads, pairs, True, False, exact
    result, expected = bodies[norm_rope](*arguments), norm_rope.reference(*arguments)
    assert result.shape == expected.shape and result.dtype == expected.dtype
    # The sum runs in another order, so that single values fall to another side of a rounding.
    torch.testing.assert_close(result, expected, rtol=2**-7, atol=2**-5)
    assert (result != expected).float().mean() < 0.02


def test_the_reference_of_norm_rope_is_a_norm_and_a_rope():
    x, four = heads(torch.bfloat16, 16), tables(torch.bfloat16, 8)
    weight = torch.randn(16).bfloat16()
    x32 = x.float()
    normed = weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).bfloat16()
    result = norm_rope.reference(x, weight, *four, 1e-6, 0.0, True, False, "neox", True, False, True)
    assert torch.equal(result, as_written(normed, *four, "neox"))


def test_what_they_refuse():
    x, four = heads(torch.bfloat16, 16), tables(torch.bfloat16, 8)

    def reason(x=x, four=four, pairs="neox"):
        return rope.check_supported(x, *four, pairs, True, False, False)

    assert reason() is None
    assert reason(pairs="thirds").startswith("pairs is 'thirds'")
    assert "has 3 dimensions" in reason(x[0])
    assert "last dimension of x is not contiguous" in reason(x.transpose(1, 3))
    assert reason(x.double()).startswith("x is torch.float64")
    assert "rotate 32 elements, and a head has 16" in reason(four=tables(torch.bfloat16, 16))
    assert "they are alike" in reason(four=[*four[:3], four[3].float()])
    huge = torch.empty(16, dtype=torch.bfloat16).as_strided((1, 1, 8192, 16), (0, 0, 0, 1))
    assert "it takes at most 65536" in reason(huge)

    def behind_norm(weight, four=four):
        return norm_rope.check_supported(x, weight, *four, 1e-6, 0.0, True, False, "neox", True, False, False)

    assert behind_norm(torch.ones(16).bfloat16()) is None and behind_norm(None) is None
    assert "it takes torch.bfloat16 (16,)" in behind_norm(torch.ones(16))
    assert behind_norm(None, tables(torch.bfloat16, 4)) is None


SHAPES = [(32, 128), (8, 128), (64, 128), (40, 128), (16, 256)]  # Qwen3 8B, its keys, 70B, Qwen3 14B, Gemma 3
KINDS = [(rope, "neox"), (rope, "interleaved"), (norm_rope, "neox")]
EVERY = list(itertools.product(KINDS, SHAPES))


@pytest.mark.parametrize(
    "asked",
    [
        # The largest rows of each kind, and those whose number of heads is no power of two.
        [*((kind, (64, 128)) for kind in KINDS), (KINDS[2], (40, 128)), (KINDS[0], (16, 256)), (KINDS[2], (96, 128, 64))],
        pytest.param(EVERY, marks=pytest.mark.slow),
    ],
    ids=["some", "every"],
)
def test_their_default_configs_hold_a_token_in_registers(tmp_path, asked):
    pool = CompilePool(2, ("helion_compile.kernels",), Target(90, 132), {"TRITON_CACHE_DIR": str(tmp_path)})
    try:
        done = []
        for (kernel, pairs), (count, d, *part) in asked:
            case = Case(
                num_heads=count,
                head_dim=d,
                rotary_dim=part[0] if part else d,
                num_tokens=16,
                dtype=torch.bfloat16,
                pairs=pairs,
            )
            case = case.replace(over_heads=False) if kernel is norm_rope else case
            done.append((kernel.name, case, pool.submit(kernel.name, case, kernel.configs.default(case))))
        for name, case, future in done:
            compiled = future.result(timeout=250)
            assert not compiled.error and compiled.spills == 0, (name, case, compiled.error, compiled.spills)
    finally:
        pool.stop()
