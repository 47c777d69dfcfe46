# SPDX-License-Identifier: Apache-2.0
"""What becomes ``concat_activation_quant`` and what does not, from torch code through the pass to results on a CPU."""

import pytest
import torch
import torch.nn.functional as F

from helion_compile.frontend.capture import make_inspecting_backend
from helion_compile.passes.account.refusal import RefusalKind
from tests.support.corpus.quantisers import torchao_row, vllm_static
from tests.support.fusing import assert_bit_equal, fused, randn, refused, run
from tests.support.gpus import H200, act_as
from tests.support.numerics import relative_error

B, T, H, K = 2, 10, 64, 256


def gelu(mlp):
    return F.gelu(mlp, approximate="tanh")


def flux(attention, mlp):
    """Flux, Chroma."""
    return torch.cat([attention, gelu(mlp)], dim=2)


def flux2(attention, mlp):
    """silu and a second half."""
    gate, up = mlp.chunk(2, -1)
    return torch.cat([attention, F.silu(gate) * up], dim=-1)


def hunyuan(attention, mlp):
    """Tokens of image and text are taken apart and joined again."""
    return torch.cat([torch.cat([attention[:, :-3], attention[:, -3:]], 1), gelu(mlp)], dim=2)


MODELS = [flux, flux2, hunyuan]


def quantised(model):
    def program(attention, mlp):
        out = model(attention, mlp)
        return torchao_row(out.reshape(-1, out.size(-1)))

    return program


def inputs(dtype=torch.bfloat16):
    return randn(B, T, H, dtype=dtype), randn(B, T, K, dtype=dtype, seed=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_exact_is_the_graph_bit_for_bit(model, dtype):
    results, record = run(quantised(model), *inputs(dtype), numerics="exact")
    assert fused(record) == ["concat_activation_quant"] and not record.refusals and not record.unfused
    assert_bit_equal(results, run(quantised(model), *inputs(dtype), only=[])[0])


@pytest.mark.parametrize("model", MODELS)
def test_default_is_as_near_to_fp64_as_inductor(model):
    args = inputs()
    (q, scale), record = run(quantised(model), *args)
    assert fused(record) == ["concat_activation_quant"]
    their_q, their_scale = torch.compile(quantised(model), backend="inductor", fullgraph=True)(*args)
    truth = model(*(tensor.double() for tensor in args)).flatten(0, 1)
    ours, theirs = (relative_error(a.double() * b, truth) for a, b in ((q, scale), (their_q, their_scale)))
    assert ours <= theirs * 1.01


@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_verified_sites(numerics):
    found = []
    backend = make_inspecting_backend(found, options={"strict": True, "numerics": numerics}, verify=True)
    torch.compile(quantised(flux), backend=backend, fullgraph=True)(*inputs())
    (site,) = found[0].report.fused
    assert site.verified and not [compared.broken for compared in site.verified if compared.broken]


def test_attention_whose_heads_lie_one_behind_the_other_is_read_in_place():
    def program(q, mlp):
        heads = F.scaled_dot_product_attention(*[q.unflatten(-1, (4, 16)).transpose(1, 2)] * 3)
        return quantised(flux)(heads.transpose(1, 2).flatten(2), mlp)

    results, record = run(program, *inputs(), numerics="exact")
    assert fused(record) == ["concat_activation_quant"]
    assert_bit_equal(results, run(program, *inputs(), only=[])[0])


def test_what_something_else_reads_is_a_result_too():
    """A LoRA branch beside the quantised linear."""

    def program(attention, mlp):
        out = flux(attention, mlp).flatten(0, 1)
        return *torchao_row(out), out.float() @ torch.ones(H + K, 2)

    results, record = run(program, *inputs(), numerics="exact")
    assert fused(record) == ["concat_activation_quant"] and "out" in record.sites[0].shapes
    assert_bit_equal(results, run(program, *inputs(), only=[])[0])


def test_any_number_of_tokens_through_one_graph():
    found = []
    backend = make_inspecting_backend(found, options={"strict": True, "numerics": "exact"})
    compiled = torch.compile(quantised(flux), backend=backend)
    for tokens in (10, 7, 12):
        attention, mlp = (randn(B, tokens, width, seed=seed) for seed, width in enumerate((H, K)))
        for tensor in (attention, mlp):
            torch._dynamo.mark_dynamic(tensor, 1)
        assert_bit_equal(compiled(attention, mlp), quantised(flux)(attention, mlp))
    assert [fused(graph.record) for graph in found] == [["concat_activation_quant"]]


class TestLeftAlone:
    def test_a_static_scale(self):
        def program(attention, mlp, scale):
            return vllm_static(flux(attention, mlp).flatten(0, 1), scale)

        reason = "with a static scale no element needs the whole row of both parts, and Inductor makes one kernel too"
        refused(program, *inputs(), torch.tensor([0.02]), reason=reason)

    def test_a_scale_a_group(self):
        def program(attention, mlp):
            groups = flux(attention, mlp).reshape(-1, (H + K) // 64, 64)
            scale = groups.abs().amax(-1, keepdim=True).float() / 448
            return (groups / scale).clamp(-448, 448).to(torch.float8_e4m3fn).reshape(-1, H + K), scale

        refused(program, *inputs(), reason="with one scale per group no element needs the whole row of both parts")

    def test_an_activation_that_something_else_reads(self):
        def program(attention, mlp):
            a = gelu(mlp)
            return *torchao_row(torch.cat([attention, a], 2).flatten(0, 1)), a

        refused(program, *inputs(), reason="the activation is also read by itself")

    def test_attention_times_a_gate(self):
        """Inductor has the product, both parts and the quantiser in one kernel."""

        def program(attention, mlp):
            return quantised(flux)(attention * mlp[..., :H].tan(), mlp)

        _, record = run(program, *inputs())
        (kept,) = (kept for kept in record.kept if kept.fusion == "concat_activation_quant")
        assert not record.sites and "front comes from aten.mul.Tensor at" in str(kept.refusal)
        assert fused(run(program, *inputs(), numerics="exact")[1]) == ["concat_activation_quant"]

    def test_without_a_table_it_waits(self, monkeypatch):
        act_as(monkeypatch, H200)
        _, record = run(quantised(flux), *inputs())
        (kept,) = (kept for kept in record.kept if kept.fusion == "concat_activation_quant")
        assert not record.sites and kept.refusal.kind is RefusalKind.UNTUNED
        _, record = run(quantised(flux), *inputs(), untuned=True)
        assert fused(record) == ["concat_activation_quant"]
