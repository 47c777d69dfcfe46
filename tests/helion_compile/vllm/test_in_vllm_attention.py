# SPDX-License-Identifier: Apache-2.0
"""The pass inside vLLM beside what vLLM fuses itself: quantisers behind attention, products that quantise."""

import logging
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm.envs")  # "vllm" alone would find this folder

import helion_compile.vllm
from helion_compile import compat
from tests.support.vllm.calls import Calls

pytestmark = pytest.mark.usefixtures("as_before")


def behind_attention(quantiser, **scale):
    """A graph of attention, a quantiser that reads it, and a product."""
    calls = Calls()
    query, key, value = (calls.input(4, 64) for _ in range(3))
    attention = calls.functional(
        torch.ops.vllm.unified_attention_with_output.default,
        query=query,
        key=key,
        value=value,
        output=calls.empty(4, 64, dtype=torch.bfloat16),
        layer_name="layer",
    )
    (x,) = calls.items(attention, 1)
    memory = calls.empty(4, 64, dtype=torch.float8_e4m3fn)
    if quantiser == "static":
        scale = calls.input(1, dtype=torch.float32)
        op = torch.ops._C.static_scaled_fp8_quant.default
        (q,) = calls.items(calls.functional(op, result=memory, input=x, scale=scale, group_shape=None), 1)
    else:
        scale = calls.empty(4, 1, dtype=torch.float32)
        op = torch.ops._C.dynamic_per_token_scaled_fp8_quant.default
        q, scale = calls.items(calls.functional(op, result=memory, input=x, scale=scale, scale_ub=None), 1, 2)
    return calls.output(calls.matmul(q, scale))


class Layer:
    """An attention layer whose backend can write fp8 with these kinds of scale."""

    def __init__(self, *kinds):
        self.impl = SimpleNamespace(fused_output_quant_supported=kinds.__contains__)


STATIC = compat.vllm_quant_keys.kFp8StaticTensorSym


@pytest.mark.parametrize(
    ("quantiser", "fuse_attn_quant", "layers", "theirs"),
    [
        ("static", True, [Layer(STATIC)], True),
        ("static", True, [Layer(), Layer(STATIC)], True),
        ("static", True, [], True),  # no layer is known: it cannot be told
        ("static", True, [Layer()], False),
        ("static", False, [Layer(STATIC)], False),
        ("token", True, [Layer(STATIC)], False),
    ],
)
def test_the_quantiser_behind_attention_is_left_where_vllm_can_take_it(config, quantiser, fuse_attn_quant, layers, theirs):
    config.compilation_config.pass_config.fuse_attn_quant = fuse_attn_quant
    config.compilation_config.static_forward_context |= dict(enumerate(layers))
    fusion_pass = helion_compile.vllm.FusionPass(config=config)
    fusion_pass(behind_attention(quantiser))
    (record,) = fusion_pass.records
    assert [site.fusion for site in record.sites] == ([] if theirs else ["quant"])
    assert [str(refusal).partition(",")[0] for refusal in record.refusals] == [
        "x comes from attention in the same graph"
    ] * theirs


def test_a_product_that_quantises_is_told_of_once(config, caplog):
    fusion_pass = helion_compile.vllm.FusionPass()
    with caplog.at_level(logging.INFO, "vllm.helion_compile"):
        for _ in range(2):
            calls = Calls()
            op = torch.ops.vllm.flashinfer_fp8_blockscale_gemm.default
            weight = calls.input(128, 128, dtype=torch.float8_e4m3fn)
            fusion_pass(calls.output(calls.call(op, calls.input(4, 128), weight, calls.input(1, 1, dtype=torch.float32))))
    said = [record.getMessage() for record in caplog.records if "quantises them itself" in record.getMessage()]
    assert len(said) == 1 and "VLLM_BLOCKSCALE_FP8_GEMM_FLASHINFER=0" in said[0]
    (refusal,) = fusion_pass.records[0].refusals
    assert refusal.candidate == "matmul" and str(refusal).startswith("vllm.flashinfer_fp8_blockscale_gemm takes x in 16 bits")


def test_behind_vllms_passes_nothing_is_left_for_them():
    fusion_pass = helion_compile.vllm.FusionPass()
    fusion_pass(behind_attention("static"))
    assert [site.fusion for site in fusion_pass.records[0].sites] == ["quant"]
