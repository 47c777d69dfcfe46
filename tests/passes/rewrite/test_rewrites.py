# SPDX-License-Identifier: Apache-2.0
"""What the pass puts in the place of what it found: the same bits, and nothing left over."""

import pytest
import torch

from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.rewrite.fusion_pass import FusionPass
from helion_compile.passes.semantics import Matmul, Quantize
from tests.support import programs, stubs
from tests.support.checks import PROJECTIONS, by_name, calls, projections, rewritten, targets
from tests.support.corpus import quantisers

NORMS = [
    programs.llama_norm,
    programs.olmo_norm,
    programs.functional_norm,
    programs.squeezed_norm,
    programs.t5_norm,
    programs.weightless_norm,
]
QUANTIZERS = [
    quantisers.torchao_row,
    quantisers.vllm_token,
    quantisers.without_clamp,
    programs.flat_scale_quantize,
    quantisers.tensor_bounds,
    quantisers.double_scale,
]


@pytest.mark.parametrize("quantize", QUANTIZERS, ids=by_name)
@pytest.mark.parametrize(
    ("norm", "dtype", "dynamic"),
    [
        (programs.llama_norm, torch.bfloat16, False),
        (programs.llama_norm, torch.float16, False),
        (programs.llama_norm, torch.float32, True),
        (programs.functional_norm, torch.bfloat16, True),
    ],
)
def test_norm_and_quantiser_become_one_call(norm, quantize, dtype, dynamic):
    def program(x, residual, weight):
        total = x + residual
        return quantize(norm(total, weight)), total

    x, residual = programs.tensor(3, 5, 64, dtype=dtype), programs.tensor(3, 5, 64, dtype=dtype, seed=1)
    after, record = rewritten(program, x, residual, programs.tensor(64, dtype=dtype), dynamic=dynamic)
    assert calls(after.graph, stubs.norm_quantize, torch.ops.aten.rsqrt.default) == [1, 0]
    (site,) = record.sites
    assert site.fusion == "norm_quantize" and site.merged == 1
    assert not record.refusals and not record.count_unfused() and not record.kept


@pytest.mark.parametrize("norm", NORMS, ids=by_name)
def test_every_norm_without_residual(norm):
    def program(x, weight):
        return quantisers.torchao_row(norm(x, weight))

    after, _ = rewritten(program, programs.tensor(8, 64), programs.tensor(64))
    # The call and two results: what nobody wants is not there, nothing of the old nodes is left.
    assert len(targets(after.graph)) == 3


@pytest.mark.parametrize("norm", NORMS, ids=by_name)
def test_a_norm_alone(norm):
    args = programs.tensor(8, 64), programs.tensor(64)
    _, record = rewritten(norm, *args, fusions=[stubs.NORM])
    assert [site.fusion for site in record.sites] == ["norm"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_three_projections_share_one_call(dynamic):
    after, record = rewritten(projections, *PROJECTIONS, dynamic=dynamic)
    assert calls(after.graph, stubs.norm_quantize, torch.ops.aten._scaled_mm.default) == [1, 3]
    (site,) = record.sites
    assert site.merged == 3
    assert [kept.fusion for kept in record.kept] == ["matmul"] * 3
    if not dynamic:
        assert site.shapes == {
            "x": "bf16[2, 8, 64]",
            "residual": "bf16[2, 8, 64]",
            "weight": "bf16[64]",
            "sum": "bf16[2, 8, 64]",
            "q": "fp8 e4m3[2, 8, 64]",
            "scale": "fp32[2, 8, 1]",
        }
    assert site.location.file == quantisers.__file__


def test_the_norm_is_still_there_for_other_readers():
    def program(x, weight):
        normed = programs.llama_norm(x, weight)
        return quantisers.torchao_row(normed), normed.sin()

    after, record = rewritten(program, programs.tensor(8, 64), programs.tensor(64))
    assert calls(after.graph, stubs.norm_quantize, torch.ops.aten.rsqrt.default) == [1, 0]
    assert record.sites[0].shapes["out"] == "bf16[8, 64]"


def test_a_cast_of_the_input_that_others_read_stays():
    def program(x, other, weight):
        total = x + other
        x32 = total.float()
        normed = weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)
        return quantisers.torchao_row(normed), x32.sin()

    args = programs.tensor(8, 64), programs.tensor(8, 64, seed=1), programs.tensor(64)
    after, record = rewritten(program, *args)
    # The sum comes out of the call, so the addition itself is gone.
    assert calls(after.graph, stubs.norm_quantize, torch.ops.aten.add.Tensor) == [1, 0]


def test_a_view_between_norm_and_quantiser():
    def program(x, weight):
        return quantisers.torchao_row(programs.llama_norm(x, weight).reshape(-1, x.shape[-1]))

    for dynamic in (False, True):
        after, _ = rewritten(program, programs.tensor(3, 5, 64), programs.tensor(64), dynamic=dynamic)
        assert calls(after.graph, stubs.norm_quantize) == [1]


def test_quantiser_without_a_norm():
    def program(x, b, b_scale):
        return programs.matmul(*quantisers.torchao_row(x.sin()), b, b_scale)

    after, record = rewritten(program, programs.tensor(8, 64), *programs.weights())
    assert calls(after.graph, stubs.quantize_alone) == [1]
    assert [site.fusion for site in record.sites] == ["quantize"]


def test_two_different_quantisers_of_one_norm():
    def program(x, weight):
        normed = programs.llama_norm(x, weight)
        return quantisers.torchao_row(normed), quantisers.vllm_token(normed)

    after, record = rewritten(program, programs.tensor(8, 64), programs.tensor(64))
    assert [site.fusion for site in record.sites] == ["norm_quantize", "quantize"]


def test_a_product_that_a_fusion_takes_is_not_kept():
    def program(q, scale, b, b_scale):
        return programs.matmul(q, scale, b, b_scale)

    args = (*quantisers.torchao_row(programs.tensor(16, 64)), *programs.weights())
    _, record = rewritten(program, *args, fusions=[stubs.MATMUL])
    assert [site.fusion for site in record.sites] == ["matmul"] and not record.kept


def test_a_chain_of_quantiser_and_product():
    def build(chain, emit):
        made = stubs.build_quantize(chain, emit)
        call = emit(
            stubs.matmul_alone,
            emit(torch.ops.aten.reshape.default, made[Quantize, "q"], [16, 64]),
            chain.inputs["b"],
            emit(torch.ops.aten.reshape.default, made[Quantize, "scale"], [16, 1]),
            chain.inputs["b_scale"],
            None,
            chain[Matmul].op.dtype,
        )
        return {(Matmul, "out"): call}

    def program(x, b, b_scale):
        return programs.matmul(*quantisers.torchao_row(x), b, b_scale)

    fusion = Fusion("quantize_matmul", (Quantize, Matmul), build)
    _, record = rewritten(program, programs.tensor(2, 8, 64), *programs.weights(), fusions=[fusion])
    assert [site.fusion for site in record.sites] == ["quantize_matmul"]
    assert set(record.sites[0].shapes) == {"x", "b", "b_scale", "out"}


def test_a_norm_that_nobody_quantises_is_counted_not_refused():
    after, record = rewritten(programs.llama_norm, programs.tensor(8, 64), programs.tensor(64))
    assert record.count_unfused() == {"RMSNorm": 1} and not record.refusals
    assert "1 x RMSNorm unfused" in record.summary()


def test_running_again_finds_nothing_new():
    after, _ = rewritten(projections, *PROJECTIONS)
    before = str(after.graph)
    again = FusionPass(stubs.ALL, strict=True)
    again(after.graph)
    assert not again.records[0].sites and not again.records[0].refusals
    assert str(after.graph) == before


def test_new_nodes_carry_values_and_places():
    after, record = rewritten(projections, *PROJECTIONS)
    (node,) = [node for node in after.graph.nodes if node.target is stubs.norm_quantize]
    assert node.name == record.sites[0].node
    assert [value.dtype for value in node.meta["val"]][2:] == [programs.E4M3, torch.float32]
    assert "quantisers.py" in node.meta["stack_trace"]
