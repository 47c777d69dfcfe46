# SPDX-License-Identifier: Apache-2.0
"""Whatever else is in a graph of vLLM stays: what it calls, in which order, on what; and the fusions around it are made."""

import operator

import pytest
import torch

from helion_compile.fusions import fusions
from helion_compile.passes import FusionPass
from helion_compile.passes.patterns.custom_ops.op_call import get_op_name
from tests.support.vllm.calls import Calls

ops = torch.ops
FP8 = torch.float8_e4m3fn
BF16 = torch.bfloat16
K = 64


class Layer(Calls):
    """A part of a transformer's layer, of 4 tokens of 64 elements."""

    def product(self, columns=K):
        return self.matmul(self.input(4, K, dtype=FP8), self.input(4, 1, dtype=torch.float32), columns=columns)

    def normed(self, x):
        call = self.call(ops.vllm_ir.fused_add_rms_norm.default, x, self.input(4, K), self.input(K), 1e-6)
        return self.items(call, 0, 1)

    def quantised_product(self, x, columns=K):
        q, scale = self.empty(4, x.meta["val"].size(-1), dtype=FP8), self.empty(4, 1, dtype=torch.float32)
        op = ops._C.dynamic_per_token_scaled_fp8_quant.default
        return self.matmul(
            *self.items(self.functional(op, result=q, input=x, scale=scale, scale_ub=None), 1, 2), columns=columns
        )

    def experts(self, x):
        """Both results of a MoE layer's experts, with the product that chooses among them."""
        call = self.functional(
            ops.vllm.moe_forward.default,
            hidden_states=x,
            router_logits=self.call(ops.aten.mm.default, x, self.input(K, 8)),
            shared_experts_input=None,
            input_ids=None,
            layer_name="layer",
            hidden_dim_unpadded=K,
        )
        return self.items(call, 0, 1)

    def lora(self, x, out):
        """``out`` plus the product of ``x`` and two thin matrices, as vLLM's Punica wrapper calls it."""
        names = (
            *("token_lora_mapping", "token_indices_sorted_by_lora_ids", "num_tokens_per_lora"),
            *("lora_token_start_loc", "lora_ids", "no_lora_flag_cpu", "num_active_loras"),
        )
        where = {name: self.input(4, dtype=torch.int32) for name in names}
        memory = self.empty(1, 4, 8, dtype=torch.float32)
        shrunk = self.functional(
            ops.vllm.lora_shrink.default,
            inputs=x,
            lora_a_weights=[self.input(1, 1, 8, K)],
            output_tensor=memory,
            scaling=1.0,
            **where,
        )
        expanded = self.functional(
            ops.vllm.lora_expand.default,
            inputs=self.items(shrunk, 1)[0],
            lora_b_weights=[self.input(1, 1, K, 8)],
            output_tensor=out,
            offset_start=0,
            add_inputs=True,
            **where,
        )
        return self.items(expanded, 1)[0]

    def attention(self, query, key, value):
        """With the write to the cache that vLLM orders by a value nobody reads."""
        written = self.call(ops.vllm.unified_kv_cache_update.default, key, value, "layer")
        call = self.functional(
            ops.vllm.unified_attention_with_output.default,
            query=query,
            key=key,
            value=value,
            output=self.empty(4, K, dtype=BF16),
            layer_name="layer",
        )
        return written, self.items(call, 1)[0]


def others(graph):
    """What a graph calls besides norms, activations, quantisers and what belongs to them: names and operators, in order."""
    found = ((node.name, get_op_name(node)) for node in graph.nodes)
    kept = ("vllm.", "_C.cutlass_scaled_mm")
    return [(name, called) for name, called in found if called and called.startswith(kept)]


def fused(graph):
    """Names of the fusions that are made; what else is there reads what it did, or what a kernel gives instead."""
    before = others(graph)
    nodes = [node for node in graph.nodes if (node.name, get_op_name(node)) in before]
    inputs = [node.all_input_nodes for node in nodes]
    fusion_pass = FusionPass(fusions(), strict=True)
    fusion_pass(graph)
    graph.lint()
    assert others(graph) == before
    for node, were in zip(nodes, inputs, strict=True):
        for now, was in zip(node.all_input_nodes, were, strict=True):
            assert now is was or (now.target is operator.getitem and now.args[0] in kernels(graph))
    (record,) = fusion_pass.records
    return [site.fusion for site in record.sites]


def kernels(graph):
    return [node for node in graph.nodes if "helion_kernel" in str(node.target)]


def all_reduced(layer, x):
    return layer.call(ops.vllm.all_reduce.default, x, "tp:0")


def scattered_and_gathered(layer, x):
    part = layer.call(ops.vllm.reduce_scatter.default, x, 0, 2, "tp:0")
    return layer.call(ops.vllm.all_gather.default, part, 0, 2, "tp:0")


def with_lora(layer, x):
    return layer.lora(layer.input(4, K), x)


@pytest.mark.parametrize("between", [all_reduced, scattered_and_gathered, with_lora])
def test_between_a_product_and_a_norm(between):
    layer = Layer()
    x = between(layer, layer.product())
    out, total = layer.normed(x)
    graph = layer.output(layer.quantised_product(out), total)
    assert fused(graph) == ["norm_quant"]
    (kernel,) = kernels(graph)
    assert kernel.args[0] is x


def test_lora_reads_the_norm_that_its_layer_quantises():
    layer = Layer()
    out, total = layer.normed(layer.product())
    graph = layer.output(layer.lora(out, layer.quantised_product(out)), total)
    assert fused(graph) == ["norm_quant"]
    (shrink,) = [node for node in graph.nodes if get_op_name(node) == "vllm.lora_shrink.default"]
    normed = shrink.kwargs["inputs"]
    assert normed.args[0] in kernels(graph), "the kernel gives the norm too"


def test_experts_read_the_norm_and_no_quantiser_is_there_to_fuse():
    layer = Layer()
    out, total = layer.normed(all_reduced(layer, layer.product()))
    moe = layer.experts(out)
    graph = layer.output(*moe, total)
    before = str(graph)
    assert fused(graph) == [] and str(graph) == before


def test_shared_experts_beside_others_are_fused():
    layer = Layer()
    out, total = layer.normed(all_reduced(layer, layer.product()))
    moe = layer.experts(out)
    gate_up = layer.quantised_product(out, 2 * K)
    memory = layer.empty(4, K, dtype=BF16)
    (activated,) = layer.items(layer.functional(ops._C.silu_and_mul.default, result=memory, input=gate_up), 1)
    graph = layer.output(layer.quantised_product(activated), *moe, total)
    assert sorted(fused(graph)) == ["activation_quant", "norm_quant"]
    (experts,) = [node for node in graph.nodes if get_op_name(node) == "vllm.moe_forward.default"]
    assert experts.kwargs["hidden_states"].args[0] in kernels(graph), "the kernel gives the norm too"


def test_the_first_and_the_last_graph_of_a_pipeline_stage():
    layer = Layer()
    hidden, residual = layer.input(4, K), layer.input(4, K)
    call = layer.call(ops.vllm_ir.fused_add_rms_norm.default, hidden, residual, layer.input(K), 1e-6)
    out, total = layer.items(call, 0, 1)
    product = layer.quantised_product(out)
    graph = layer.output(product, total)  # what the next stage is sent
    assert fused(graph) == ["norm_quant"]
    (kernel,) = kernels(graph)
    assert kernel.args[0] is hidden and residual in kernel.args
    sent = graph.output_node().args[0]
    assert sent[0] is product and sent[1].args[0] is kernel


def test_attention_in_the_same_graph():
    layer = Layer()
    query, key, value = (layer.product() for _ in range(3))
    written, x = layer.attention(query, key, value)
    out, total = layer.normed(all_reduced(layer, layer.quantised_product(x)))
    graph = layer.output(layer.quantised_product(out), total, written)
    assert fused(graph) == ["norm_quant", "quant"]
    names = [name for _, name in others(graph) if "unified" in name]
    assert names == ["vllm.unified_kv_cache_update.default", "vllm.unified_attention_with_output.default"]


def test_a_write_to_what_a_chain_reads_keeps_its_place():
    layer = Layer()
    out, total = layer.normed(layer.product())
    product = layer.quantised_product(out)
    layer.call(ops.aten.copy_.default, layer.input(4, K), product)
    names = [node.name for node in layer.graph.nodes if node.target is ops.aten.copy_.default]
    graph = layer.output(product, total)
    assert fused(graph) == ["norm_quant"]
    assert [node.name for node in graph.nodes if node.target is ops.aten.copy_.default] == names


def test_every_rank_makes_the_same_of_its_graph(monkeypatch):
    def graph():
        layer = Layer()
        out, total = layer.normed(all_reduced(layer, layer.product()))
        return layer.output(layer.quantised_product(out), total)

    texts = set()
    for rank in range(2):
        for name in ("RANK", "LOCAL_RANK", "VLLM_DP_RANK"):
            monkeypatch.setenv(name, str(rank))
        each = graph()
        fused(each)
        texts.add("\n".join(f"{node.name} {node.target} {node.args} {node.kwargs}" for node in each.nodes))
    assert len(texts) == 1
