# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.aten.rope: how rotary position embedding is written, and what it is then said to be.

Letters: B sequences, S tokens, H heads, D elements of a head.
"""

import functools

import pytest
import torch
from transformers.models.cohere import modeling_cohere
from transformers.models.glm import modeling_glm
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.laguna import modeling_laguna
from transformers.models.llama import modeling_llama
from transformers.models.llama4 import modeling_llama4
from transformers.models.nanochat import modeling_nanochat

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import ComplexRope, Norm, Rope, RopePairs, RopeRounding, RopeTable
from tests.support import checks, programs
from tests.support.capture import capture
from tests.support.corpus.ropes import (
    chunked,
    chunked_inverse,
    even_odd,
    halves,
    rotate_half,
    rotate_half_by_chunk,
    rotate_half_inverse,
    rotate_pairs,
    stacked,
    stacked_by_unbind,
    strided_writes,
    written_halves,
)

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
NEOX, INTERLEAVED = RopePairs
ELEMENT, PAIR = RopeTable
EVERY_STEP, RESULT = RopeRounding
B, S, H, D = 2, 5, 4, 64

FORMS = {
    rotate_half: (NEOX, ELEMENT),
    rotate_half_by_chunk: (NEOX, ELEMENT),
    rotate_pairs: (INTERLEAVED, ELEMENT),
    rotate_half_inverse: (NEOX, ELEMENT),
    chunked: (NEOX, PAIR),
    chunked_inverse: (NEOX, PAIR),
    stacked: (INTERLEAVED, PAIR),
    stacked_by_unbind: (INTERLEAVED, PAIR),
    strided_writes: (INTERLEAVED, PAIR),
    written_halves: (NEOX, PAIR),
}


def table(width=D, dtype=BF16, heads_dim=2, seed=1):
    return programs.tensor(B, S, width, dtype=dtype, seed=seed).unsqueeze(heads_dim)


def arguments(function, dtype=BF16, table_dtype=None):
    width = D if FORMS[function][1] is ELEMENT else D // 2
    tables = (table(width, table_dtype or dtype, seed=seed) for seed in (1, 2))
    return programs.tensor(B, S, H, D, dtype=dtype), *tables


def only_rope(function, *args, count=1, dynamic=False):
    matched = match_graph(capture(function, *args, dynamic=dynamic).graph)
    assert not matched.refusals, matched.refusals
    matches = [match for match in matched.matches if isinstance(match.op, (Rope, ComplexRope))]
    assert len(matches) == count
    return matches[0]


def op(function, dtype=BF16, **facts):
    pairs, form = FORMS[function]
    rounding = RESULT if dtype == FP32 else EVERY_STEP
    base = dict(pairs=pairs, table=form, rotary_dim=D, x_dtype=dtype, dtype=dtype, table_dtype=dtype, rounding=rounding)
    base["inverse"] = function in (rotate_half_inverse, chunked_inverse)
    return Rope(**(base | facts))


@pytest.mark.parametrize("function", FORMS, ids=lambda function: function.__name__)
class TestForms:
    def test_in_fp32_and_rounded(self, function):
        def program(x, cos, sin):
            return function(x.float(), cos, sin).to(x.dtype)

        for table_dtype in (BF16, FP32):
            # Each half is rounded when it is written, if cos and sin are read as bf16 and so x stays fp32.
            match = only_rope(program, *arguments(function, BF16, table_dtype))
            assert match.op == op(function, rounding=RESULT, table_dtype=table_dtype)

    def test_part_of_a_head(self, function):
        def program(x, cos, sin):
            return torch.cat((function(x[..., :D], cos, sin), x[..., D:]), -1)

        _, *tables = arguments(function)
        match = only_rope(program, programs.tensor(B, S, H, D + 32), *tables)
        assert match.op == op(function)
        assert match.inputs["x"].op == "placeholder" and match.outputs["out"][0].meta["val"].shape[-1] == D + 32

    def test_heads_before_tokens(self, function):
        def program(x, cos, sin):
            return function(x.transpose(1, 2), cos.transpose(1, 2), sin.transpose(1, 2))

        match = only_rope(program, *arguments(function))
        assert match.op == op(function, transposed=True)
        assert match.inputs["x"].op == "placeholder"

    def test_everything_it_needs_alone_goes_with_it(self, function):
        """After the replacement nothing but views of inputs is left, which cost nothing."""
        captured = capture(function, *arguments(function))
        (match,) = match_graph(captured.graph).matches
        left = [node for node in captured.graph.nodes if node.op == "call_function" and node not in match.nodes]
        assert not left


def test_a_half_of_x_in_fp32_that_something_else_reads():
    """It stays, and so does the cast that it is cut out of: both cost nothing beside the rope."""

    def program(x, cos, sin):
        x32 = x.float()
        x1, x2 = halves(x32)
        return (x32 * cos + torch.cat((-x2, x1), -1) * sin).to(BF16), x1 + 1

    captured = capture(program, *arguments(rotate_half, BF16, FP32))
    (match,) = match_graph(captured.graph).matches
    assert match.op == op(rotate_half, rounding=RESULT, table_dtype=FP32)


def test_angles_cut_out_anew_for_each_use():
    """As gpt-fast and torchtune, with cos and sin in one tensor [S, D / 2, 2]."""

    def program(x, angles):
        x, angles = x.float().reshape(*x.shape[:-1], -1, 2), angles.view(1, x.size(1), 1, -1, 2)
        first = x[..., 0] * angles[..., 0] - x[..., 1] * angles[..., 1]
        second = x[..., 1] * angles[..., 0] + x[..., 0] * angles[..., 1]
        return torch.stack([first, second], -1).flatten(3).to(BF16)

    match = only_rope(program, programs.tensor(B, S, H, D), programs.tensor(S, D // 2, 2))
    assert match.op == op(stacked, rounding=RESULT)
    assert [match.inputs[name].args[2] for name in ("cos", "sin")] == [0, 1]


def test_complex_products():
    freqs = torch.polar(torch.ones(B, S, D // 2), torch.randn(B, S, D // 2))
    args = programs.tensor(B, S, H, D), programs.tensor(B, S, 2, D, seed=1), freqs
    match = only_rope(modeling_llama4.apply_rotary_emb, *args, count=2)
    assert match.op == ComplexRope(rotary_dim=D, x_dtype=BF16, dtype=BF16)
    assert match.inputs.keys() == {"x", "freqs"}


@pytest.mark.parametrize(
    ("module", "width", "facts"),
    [
        (modeling_llama, D, dict(pairs=NEOX, table=ELEMENT, rotary_dim=D, rounding=EVERY_STEP)),
        (modeling_gpt_neox, 32, dict(pairs=NEOX, table=ELEMENT, rotary_dim=32, rounding=EVERY_STEP)),
        (modeling_cohere, D, dict(pairs=INTERLEAVED, table=ELEMENT, rotary_dim=D, rounding=RESULT)),
        (modeling_glm, 32, dict(pairs=INTERLEAVED, table=ELEMENT, rotary_dim=32, rounding=EVERY_STEP)),
        (modeling_laguna, 16, dict(pairs=NEOX, table=ELEMENT, rotary_dim=16, rounding=EVERY_STEP)),
        (modeling_nanochat, D, dict(pairs=NEOX, table=ELEMENT, rotary_dim=D, rounding=EVERY_STEP, inverse=True)),
        (modeling_gpt_oss, D // 2, dict(pairs=NEOX, table=PAIR, rotary_dim=D, rounding=EVERY_STEP)),
    ],
    ids=lambda value: getattr(value, "__name__", "").rpartition(".")[2] or None,
)
def test_functions_of_transformers(module, width, facts):
    """q and k [B, H, S, D], transposed from [B, S, H, D], with one cos and sin."""

    def program(q, k, cos, sin):
        return module.apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos, sin)

    tables = (programs.tensor(B, S, width, seed=seed) for seed in (2, 3))
    args = programs.tensor(B, S, H, D), programs.tensor(B, S, 2, D, seed=1), *tables
    match = only_rope(program, *args, count=2)
    assert match.op == Rope(x_dtype=BF16, dtype=BF16, table_dtype=BF16, transposed=True, **facts)


def test_behind_a_norm_of_each_head():
    def program(x, weight, cos, sin):
        x = programs.llama_norm(x.view(B, S, H, D), weight).transpose(1, 2)
        return rotate_half(x, cos, sin)

    tables = (programs.tensor(B, 1, S, D, seed=seed) for seed in (2, 3))
    graph = capture(program, programs.tensor(B, S, H * D), programs.tensor(D), *tables).graph
    norm, rope = match_graph(graph).matches
    assert isinstance(norm.op, Norm) and rope.op == op(rotate_half, transposed=True)
    assert rope.inputs["x"] is norm.outputs["out"][0]


def test_others_are_no_candidates():
    def program(x, y):
        x1, x2 = halves(x)
        return (
            torch.cat((x, y), -1),
            torch.cat((-x, y), -1),
            torch.cat((x1 - x2, x1 + x2), -1),
            torch.stack((x, y), -1).flatten(-2),
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)))),
        )

    matched = match_graph(
        capture(program, programs.tensor(B, S, H, D, dtype=FP32), programs.tensor(B, S, H, D, dtype=FP32)).graph
    )
    assert not matched.matches and not matched.refusals


refused = functools.partial(checks.refused, "rope")


class TestRefused:
    def test_the_wrong_half_negated(self):
        def program(x, cos, sin):
            x1, x2 = halves(x)
            return x * cos + torch.cat((-x1, x2), -1) * sin

        assert refused(program, *arguments(rotate_half)) == "the cat is cat([-x1, x2]); cat([-x2, x1]) fuses"

    def test_a_difference_in_the_place_of_the_sum(self):
        def program(x, cos, sin):
            x1, x2 = halves(x)
            return x * cos - torch.cat((-x2, x1), -1) * sin

        reason = refused(program, *arguments(rotate_half))
        assert reason.startswith("expected x * cos + cat([-x2, x1]) * sin, found aten.mul.Tensor")

    def test_another_x_beside_the_rotated_one(self):
        def program(x, cos, sin):
            x1, x2 = halves(x)
            return x.sin() * cos + torch.cat((-x2, x1), -1) * sin

        assert refused(program, *arguments(rotate_half)).startswith("expected x * cos + cat([-x2, x1]) * sin")

    def test_two_different_tables(self):
        def program(x, cos, sin):
            x1, x2 = halves(x)
            return torch.cat((x1 * cos - x2 * sin, x2 * sin + x1 * cos), -1)

        assert refused(program, *arguments(chunked)).startswith("expected x2 * cos + x1 * sin beside x1 * cos - x2 * sin")

    def test_the_halves_the_other_way_round(self):
        def program(x, cos, sin):
            x1, x2 = halves(x)
            return torch.cat((x2 * cos - x1 * sin, x1 * cos + x2 * sin), -1)

        assert refused(program, *arguments(chunked)).startswith("the first of a pair is x2 * cos - x1 * sin")

    def test_the_wrong_half_negated_behind(self):
        def program(x, cos, sin):
            x1, x2 = halves(x)
            return x * cos + torch.cat((x1, -x2), -1) * sin

        assert refused(program, *arguments(rotate_half)) == "the cat is cat([x1, -x2]); cat([-x2, x1]) fuses"

    def test_the_halves_the_other_way_round_by_minus_the_angle(self):
        def program(x, cos, sin):
            x1, x2 = halves(x)
            return torch.cat((x2 * cos + x1 * sin, x1 * cos - x2 * sin), -1)

        assert refused(program, *arguments(chunked)).startswith("the first of a pair is x2 * cos + x1 * sin")

    def test_two_different_tables_by_minus_the_angle(self):
        def program(x, cos, sin):
            x1, x2 = halves(x)
            return torch.cat((x1 * cos + x2 * sin, x2 * sin - x1 * cos), -1)

        assert refused(program, *arguments(chunked)).startswith("expected x1 * cos + x2 * sin beside x2 * cos - x1 * sin")

    def test_interleaved_pairs_put_together_as_neox(self):
        """As DeepSeek V3."""

        def program(x, cos, sin):
            x1, x2 = even_odd(x)
            return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1)

        reason = refused(program, *arguments(chunked))
        assert reason == "interleaved pairs are rotated and put together as neox; put back where they were they fuse"

    def test_written_to_more_bits_than_were_computed(self):
        def program(x, cos, sin):
            x1, x2 = even_odd(x)
            out = torch.empty_like(x, dtype=FP32)
            out[..., 0::2] = x1 * cos - x2 * sin
            out[..., 1::2] = x1 * sin + x2 * cos
            return out

        assert refused(program, *arguments(chunked)) == "bf16 becomes fp32; fp32 rounded to 16 bits fuses"

    @pytest.mark.parametrize(
        ("back", "readers", "fuses"),
        [
            (lambda out: (torch.view_as_real(out), out.real.sum()), "aten.view_as_real.default", "as real numbers"),
            (lambda out: torch.view_as_real(out * out), "aten.mul.Tensor", "as real numbers"),
            (lambda out: torch.view_as_real(out * 2.0), "aten.mul.Tensor", "as real numbers"),
            (lambda out: torch.view_as_real(out).flip(-1).flatten(-2), "prims.rev.default", "in the shape of x"),
            (lambda out: torch.view_as_real(out).mT.flatten(-2), "aten.permute.default", "in the shape of x"),
        ],
        ids=["read twice", "squared", "scaled", "swapped", "as halves"],
    )
    def test_a_complex_product_that_something_else_reads(self, back, readers, fuses):
        def program(x, freqs):
            return back(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * freqs)

        freqs = torch.polar(torch.ones(1, S, 1, D // 2), torch.randn(1, S, 1, D // 2))
        reason = refused(program, programs.tensor(B, S, H, D), freqs)
        assert reason.startswith(f"the product of complex numbers is read by {readers} (")
        assert reason.endswith(f"; read {fuses} alone it fuses")

    def test_complex_numbers_of_16_bits(self):
        def program(x, freqs):
            pairs = torch.view_as_complex(x.half().unflatten(-1, (-1, 2)))
            return torch.view_as_real(pairs * freqs).flatten(-2)

        freqs = torch.polar(torch.ones(1, S, 1, D // 2), torch.randn(1, S, 1, D // 2)).to(torch.complex32)
        reason = refused(program, programs.tensor(B, S, H, D, dtype=FP16), freqs)
        assert reason.startswith("fp16 is rotated in fp16")

    def test_cos_and_sin_of_two_dtypes(self):
        x, cos, sin = arguments(rotate_half, FP32)
        reason = refused(rotate_half, x, cos, sin.bfloat16())
        assert reason == "cos is fp32 and sin bf16; floats of one dtype fuse"

    def test_a_table_that_is_broadcast_over_elements(self):
        x, cos, sin = arguments(rotate_half)
        assert "cos and sin of [..., 64] fuse" in refused(rotate_half, x, cos[..., :1], sin)

    def test_fp64(self):
        reason = refused(rotate_half, *arguments(rotate_half, torch.float64))
        assert "bf16, fp16 and fp32 fuse" in reason or "floats of one dtype fuse" in reason

    def test_a_rotated_half_that_something_else_reads(self):
        def program(x, cos, sin):
            x1, x2 = halves(x)
            rotated = torch.cat((-x2, x1), -1)
            return x * cos + rotated * sin, rotated

        assert "an intermediate value, is also read by output" in refused(program, *arguments(rotate_half))


def test_what_is_rotated_is_not_the_beginning_of_x():
    def program(x, cos, sin):
        end = x[..., D // 2 :]
        return torch.cat([rotate_half(end, cos, sin), end], -1)

    cos, sin = (table(D // 2, seed=seed) for seed in (1, 2))
    match = only_rope(program, programs.tensor(B, S, H, D), cos, sin)
    assert match.op == op(rotate_half, rotary_dim=D // 2)
    assert match.inputs["x"].meta["val"].shape[-1] == D // 2
