# SPDX-License-Identifier: Apache-2.0
"""Real model classes, two layers each, through ``backend="helion"``: every chain is found, once, and the results hold.

Two layers have eight activations that are quantised: the results of the four norms, which q, k, v and gate, up share, the
inputs of o_proj, and the inputs of down_proj, which are silu(gate) * up.  Most tests stop before code generation; what is
compiled is compiled once a model.
"""

import copy
import functools
import operator
from collections import Counter

import fp8_models
import pytest
import torch
import transformers

import helion_compile
from helion_compile.frontend.capture import inspect_model, make_inspecting_backend
from helion_compile.graph.hop import helion_kernel
from helion_compile.passes.ir.values import RESHAPES
from tests.support.numerics import relative_error

aten = torch.ops.aten

# model -> what is in no fusion: the norm before lm_head, and rotary embeddings, which Inductor computes where they are read.
# Qwen3's have a norm in front: on q that is one kernel, on k it stays, as k is copied for the groups of queries.
UNFUSED = {"llama": {"RMSNorm": 1, "Rope": 4}, "qwen3": {"RMSNorm": 3, "Rope": 2}, "mistral": {"RMSNorm": 1, "Rope": 4}}
MODELS = list(UNFUSED)
# Where a test takes seconds a model: the one with most fusions, and the others among the slow tests.
QWEN3_FIRST = ["qwen3", *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "qwen3")]

NORM_QUANT = {  # module of the first reader -> copies of the chain
    "model.layers.0.self_attn.q_proj": 3,
    "model.layers.0.mlp.gate_proj": 2,
    "model.layers.1.self_attn.q_proj": 3,
    "model.layers.1.mlp.gate_proj": 2,
}
QUANT = {
    "model.layers.0.self_attn.o_proj": 1,
    "model.layers.1.self_attn.o_proj": 1,
}
ACTIVATION_QUANT = {
    "model.layers.0.mlp.down_proj": 1,
    "model.layers.1.mlp.down_proj": 1,
}
NORM_ROPE = {"qwen3": {f"model.layers.{layer}.self_attn": 1 for layer in (0, 1)}}
LINEARS = [
    f"model.layers.{layer}.{linear}"
    for layer in (0, 1)
    for linear in [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
]


@functools.cache
def model_of(name, lm_head=False):
    return fp8_models.quantize_fp8_per_row(getattr(fp8_models, name)(), lm_head=lm_head)


def ids_of(name, *shape):
    return fp8_models.token_ids(model_of(name), *shape)


def found_sites(record):
    return {
        fusion: {site.location.module: site.merged for site in record.sites if site.fusion == fusion}
        for fusion in ("norm_quant", "activation_quant", "quant")
    }


def assert_only_keys_are_refused(name, record):
    assert len(record.refusals) == 2 * (name == "qwen3")
    for refusal in record.refusals:
        assert refusal.candidate == "norm_rope" and "which would else be written and read once more" in str(refusal)


def assert_all_chains_fused(name, inspected):
    """Every chain is in one site and every product reads a site: nothing is missed, nothing is there twice."""
    record, nodes = inspected.record, list(inspected.module.graph.nodes)
    assert found_sites(record) == {"norm_quant": NORM_QUANT, "activation_quant": ACTIVATION_QUANT, "quant": QUANT}
    ropes = {site.location.module: site.merged for site in record.sites if site.fusion == "norm_rope"}
    assert ropes == NORM_ROPE.get(name, {})
    assert len(record.sites) == 8 + len(ropes)
    assert Counter(site.location.module for site in record.kept) == Counter(LINEARS)
    assert record.count_unfused() == UNFUSED[name]
    assert_only_keys_are_refused(name, record)
    assert not record.error and not inspected.training

    targets = Counter(node.target for node in nodes)
    assert targets[helion_kernel] == 8 + len(ropes)
    assert targets[aten.amax.default] == 0
    assert targets[aten.rsqrt.default] == UNFUSED[name]["RMSNorm"]
    products = [node for node in nodes if node.target is aten._scaled_mm.default]
    assert len(products) == 14
    read = Counter()
    for product in products:
        (q_call, q_index), (scale_call, scale_index) = (kernel_result(product.args[i]) for i in (0, 2))
        assert (q_index, scale_index) == (0, 1) and q_call is scale_call
        read[q_call] += 1
    assert sorted(read.values()) == [1, 1, 1, 1, 2, 2, 3, 3]


def kernel_result(node):
    """The kernel node whose result ``node`` shows, and the result's index."""
    while node.target in RESHAPES:
        node = node.args[0]
    assert node.target is operator.getitem
    assert node.args[0].target is helion_kernel
    return node.args


# Mistral's layers are Llama's.
@pytest.mark.parametrize("name", ["qwen3", "llama", pytest.param("mistral", marks=pytest.mark.slow)])
def test_every_chain_of_a_model_once(name):
    """With sizes that are not known; test_architectures.py has the same with sizes that are."""
    (inspected,) = inspect_model(model_of(name), [ids_of(name, 2, 8)], {}, dynamic=True)
    assert_all_chains_fused(name, inspected)
    assert inspected.record.sites[0].shapes["x"].startswith("bf16[s")


@pytest.mark.parametrize("name", QWEN3_FIRST)
@pytest.mark.parametrize("shape", [(1, 8), (1, 1)], ids=str)
def test_one_sequence_and_one_token(name, shape):
    (inspected,) = inspect_model(model_of(name), [ids_of(name, *shape)], {})
    assert_all_chains_fused(name, inspected)


@pytest.mark.parametrize("name", QWEN3_FIRST)
def test_decoding_with_a_static_cache(name):
    model, ids = model_of(name), ids_of(name, 2, 9)

    def decode(model):
        """The logits of the ninth token, with the first eight in the cache."""
        cache = transformers.StaticCache(config=model.config, max_cache_len=16)
        call_model(ids[:, :8], cache, 0)
        return call_model(ids[:, 8:], cache, 8, model)

    def call_model(ids, cache, past, model=model):
        positions = torch.arange(past, past + ids.shape[1])[None]
        return model(ids, past_key_values=cache, position_ids=positions, use_cache=True).logits

    found = []
    fused, unfused = (
        decode(torch.compile(model, backend=make_inspecting_backend(graphs, options=options), fullgraph=True))
        for graphs, options in ((found, {"numerics": "exact"}), ([], {"only": []}))
    )
    (inspected,) = found
    assert_all_chains_fused(name, inspected)
    assert torch.equal(fused, unfused)
    # The cache counts: the last token without it gives something else.
    assert relative_error(model(ids[:, 8:]).logits, fused) > 0.1


@pytest.mark.parametrize("name", QWEN3_FIRST)
def test_a_quantised_head_takes_the_last_norm(name):
    model = model_of(name, lm_head=True)
    (inspected,) = inspect_model(model, [ids_of(name, 2, 8)], {})
    found = found_sites(inspected.record)
    norm_quant = NORM_QUANT | {"lm_head": 1}
    assert found == {"norm_quant": norm_quant, "activation_quant": ACTIVATION_QUANT, "quant": QUANT}
    assert inspected.record.count_unfused().get("RMSNorm", 0) == UNFUSED[name]["RMSNorm"] - 1


def test_sums_that_are_results_too():
    """Hidden states are the residual sums, which then have a reader besides the next norm."""
    model, ids = model_of("llama"), ids_of("llama", 2, 8)

    def with_hidden_states(ids):
        out = model(ids, output_hidden_states=True)
        return out.logits, *out.hidden_states

    found = []
    fused, unfused = (
        torch.compile(with_hidden_states, backend=make_inspecting_backend(graphs, options=options))(ids)
        for graphs, options in ((found, {"numerics": "exact"}), ([], {"only": []}))
    )
    assert Counter(site.fusion for site in found[0].record.sites) == {"norm_quant": 4, "activation_quant": 2, "quant": 2}
    assert len(fused) == 4
    for result, expected in zip(fused, unfused, strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("name", QWEN3_FIRST)
def test_exact_changes_no_bit_of_the_model(name):
    """The same graph, run node by node on a CPU, where the reference of a kernel calls the torch ops of the chain."""
    model, ids = model_of(name), ids_of(name, 2, 13)
    fused, unfused = (
        torch.compile(model, backend=make_inspecting_backend([], options=options))(ids).logits
        for options in ({"numerics": "exact"}, {"only": []})
    )
    assert torch.equal(fused, unfused)


def test_default_is_another_arithmetic():
    """So that the test above shows more than that no option reaches the kernels."""
    model, ids = model_of("llama"), ids_of("llama", 2, 13)
    default, exact = (
        torch.compile(model, backend=make_inspecting_backend([], options={"numerics": numerics}))(ids).logits
        for numerics in ("default", "exact")
    )
    assert not torch.equal(default, exact)


@pytest.mark.parametrize("name", QWEN3_FIRST)
def test_the_compiled_model_is_as_near_to_fp64_as_inductors(name):
    model, ids = model_of(name), ids_of(name, 2, 64)
    truth = fp8_models.dequantize_fp64(copy.deepcopy(model))(ids).logits
    with torch.no_grad():
        helion = torch.compile(model, backend="helion", fullgraph=True)(ids).logits
        inductor = torch.compile(model, backend="inductor", fullgraph=True)(ids).logits
    ours, theirs = relative_error(helion, truth), relative_error(inductor, truth)
    # Nearly all of the error is the quantisation's own, 2-4 % here.  Bytes that lie midway between two steps go one way
    # or the other by the last bits of fp32: both are as near, and over 65 536 logits the norms agree to a few percent.
    assert ours <= theirs * 1.05
    assert relative_error(helion, inductor) < ours  # nearer to each other than to the truth


def test_code_before_and_after():
    (graph,) = helion_compile.explain(model_of("llama"), ids_of("llama", 2, 8)).graphs
    assert graph.before.count("aten.amax.default") == 14
    assert graph.after.count("aten.amax.default") == 0
    assert graph.before.count("helion_kernel(") == 0
    assert graph.after.count("helion_kernel(") == 8
    for code in (graph.before, graph.after):
        assert code.startswith("def forward(self, ")
        assert "# File: transformers/models/llama/modeling_llama.py:" in code
        compile(code, "graph", "exec")
