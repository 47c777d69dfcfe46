# SPDX-License-Identifier: Apache-2.0
"""Two layers of each kind of model, quantised by torchao: exact numbers of sites, and a reason for all that is in none.

A layer's quantised activations are, but for models that merge linears or have one norm a layer: the results of two norms,
which q, k, v and gate, up share, the input of o_proj, and the input of down_proj, an activation.
"""

from collections import Counter
from dataclasses import dataclass, field
from unittest import mock

import fp8_models
import pytest
import torch
import torchao.quantization
import transformers
from torchao.kernel import intmm

from helion_compile.frontend.capture import inspect_model, make_inspecting_backend
from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.patterns import PATTERNS
from helion_compile.passes.patterns.custom_ops.op_call import get_op_name
from helion_compile.passes.semantics import Quantize

WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "vocab_size": 96}
SHAPE = {**WIDTHS, "num_hidden_layers": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
NO_GROUPS = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
READ_BY = "the result is read by"
FINAL_NORM = {("Norm", f"{READ_BY} aten.mm.default"): 1}  # lm_head is not quantised
EMBEDDED = {("Rope", f"{READ_BY} aten._scaled_dot_product"): 4}
# Post-norms: what an addition adds to the residual, and so the first of two sums of the next norm.
POST_NORMS = {("Norm", f"{READ_BY} RMSNorm"): 4}
NORM_ROPE = "norm_rope"
HEAD = {"aten.mm.default": 1}


@dataclass
class Expected:
    """What is in both layers: a fusion's numbers of merged copies in each, and what is left."""

    config: dict = field(default_factory=lambda: SHAPE)
    norms: tuple[int, ...] = (3, 2)  # norm_quant: q, k, v; gate, up
    activations: tuple[int, ...] = (1,)
    quants: tuple[int, ...] = (1,)
    left: tuple[int, ...] = ()  # quantisers that Inductor puts into the kernel of what they quantise
    embeddings: tuple[int, ...] = ()  # norm_rope
    unfused: dict = field(default_factory=lambda: FINAL_NORM | EMBEDDED)  # what was matched but is in no site -> why
    # Nodes that look like the beginning of something and are none, all of them: lm_head; attention in plain operations.
    others: dict = field(default_factory=lambda: HEAD)
    op: str = ""  # of the last norm that is quantised

    @property
    def linears(self):
        return 2 * sum((*self.norms, *self.activations, *self.quants, *self.left))

    def merged(self):
        by_fusion = {
            "norm_quant": self.norms,
            "activation_quant": self.activations,
            "quant": self.quants,
            NORM_ROPE: self.embeddings,
        }
        return {name: sorted(2 * merged) for name, merged in by_fusion.items() if merged}


RMS = "RMSNorm(eps=1e-06, bf16, cast then scale, +residual)"
GEMMA = "RMSNorm(eps=1e-06, bf16, scale then cast, weight + 1, +residual)"
LAYER = "LayerNorm(eps=1e-05, bf16, scale then cast, bf16 bias, +residual)"
MODELS = {
    "Llama": Expected(op=RMS),
    "Qwen2": Expected(op=RMS),
    "Qwen3": Expected({**SHAPE, "head_dim": 32}, embeddings=(1, 1), unfused=FINAL_NORM, op=RMS),
    "Gemma2": Expected(
        {**SHAPE, "head_dim": 32},
        # The logits' bound is a tanh, and with one in attention that is two products, a bound and a softmax.
        quants=(),
        left=(1,),  # attention's result is cloned, heads side by side
        unfused=FINAL_NORM | POST_NORMS | {("Rope", f"{READ_BY} aten.clone"): 4},
        others=HEAD | {"aten.bmm.default": 4, "aten.tanh.default": 3, "aten.exp.default": 2},
        op=GEMMA,
    ),
    "Gemma3Text": Expected(
        {**SHAPE, "head_dim": 32}, embeddings=(1, 1), unfused=FINAL_NORM | POST_NORMS, others=HEAD, op=GEMMA
    ),
    "Mistral": Expected(op=RMS),
    "Phi3": Expected({**SHAPE, "pad_token_id": 0}, norms=(1, 1), op=RMS.replace("06", "05")),
    "Granite": Expected({**SHAPE, "residual_multiplier": 0.22}, op=RMS.replace(")", ", x * 0.22 before)")),
    "Olmo2": Expected(
        norms=(),
        embeddings=(1, 1),
        left=(3, 2),  # of the sums that no norm is in front of, and the embedding
        unfused=FINAL_NORM | {("Norm", f"{READ_BY} aten.add.Tensor"): 3, ("Norm", f"{READ_BY} RMSNorm"): 1},
    ),
    # Both norms of a layer read one sum, which the first takes.
    "GPTNeoX": Expected(NO_GROUPS, norms=(1, 1), quants=(), left=(1,), op=LAYER.replace(", +residual", "")),
    "StableLm": Expected(quants=(), left=(1,), op=LAYER),
    "Cohere": Expected(norms=(5,), op=LAYER.replace(" bf16 bias,", "")),
    "Bert": Expected(
        NO_GROUPS,
        norms=(3, 1),
        unfused={("Norm", f"{READ_BY} whoever called the graph"): 1},
        others={},
        op=LAYER.replace("05", "12"),
    ),
}


def config_of(name):
    return getattr(transformers, f"{name}Config")(**MODELS[name].config)


def model_of(name):
    if name != "Bert":
        return fp8_models.random_model(config_of(name))
    torch.manual_seed(0)
    return fp8_models.for_inference(transformers.BertModel(config_of(name), add_pooling_layer=False).bfloat16())


def ids_of(model, tokens=8):
    """Token ids [2, tokens] without 0 and 1, the padding of some: its embedding is zero, and a row of zeros becomes NaN."""
    return fp8_models.token_ids(model, 2, tokens).clamp(min=2)


def quantized(model, config):
    def chosen(module, name):
        return isinstance(module, torch.nn.Linear) and name not in ("lm_head", "embed_out")

    config.set_inductor_config = False  # the compiler's options are those of the whole process
    # torchao refuses a machine without an fp8 GPU, but its aten form runs anywhere.
    with mock.patch("torchao.quantization.quant_api._check_hardware_support"):
        torchao.quantization.quantize_(model, config, filter_fn=chosen)
    return model


def sites_of(record):
    found = {}
    for site in record.sites:
        found.setdefault(site.fusion, []).append(site.merged)
    return {name: sorted(merged, reverse=True) for name, merged in found.items()}


def unexplained(inspected):
    """Nodes of the graph at which reading begins and that are in no stretch that was read or refused; and other products."""
    anchors = set().union(*(pattern.ANCHORS for pattern in PATTERNS if pattern.NAME in ("norm", "activation", "matmul")))
    products = {torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default}
    matched = match_graph(inspected.module.graph)
    told = {refusal.node for refusal in inspected.record.refusals}
    return [
        node
        for node in inspected.module.graph.nodes
        if (node.target in anchors | products or get_op_name(node) in anchors or narrows(node))
        and node not in matched.owners
        and node.name not in told
    ]


def narrows(node):
    value = node.meta.get("val")
    small = {torch.int8, torch.float8_e4m3fn, torch.float8_e5m2}
    return node.target is torch.ops.prims.convert_element_type.default and value.dtype in small


def name_of_op(op):
    return type(op).__name__


def assert_unfused(record, expected):
    found = Counter(
        next(
            (key for key in expected if key[0] == name_of_op(each.op) and each.refusal.found.startswith(key[1])),
            (name_of_op(each.op), each.refusal.found),
        )
        for each in record.unfused
    )
    assert found == expected


def the_one(inspected):
    (one,) = inspected
    assert not one.record.error and not one.training
    return one


def broken(inspected):
    """What breaks its contract, of all sites; each was run."""
    assert all(fused.verified for fused in inspected.report.fused)
    return [compared.broken for fused in inspected.report.fused for compared in fused.verified if compared.broken]


def kept_of(record):
    return Counter(site.fusion for site in record.kept)


def quants_left(expected):
    return {"quant": 2 * len(expected.left)} if expected.left else {}


@pytest.mark.parametrize("name", MODELS)
def test_fp8_per_row(name):
    expected = MODELS[name]
    model = fp8_models.quantize_fp8_per_row(model_of(name))
    inspected = the_one(inspect_model(model, [ids_of(model)], {}, verify=True))
    record = inspected.record
    assert sites_of(record) == {name: sorted(merged, reverse=True) for name, merged in expected.merged().items()}
    assert not record.refusals
    assert kept_of(record) == {"matmul": expected.linears, **quants_left(expected)}
    assert_unfused(record, expected.unfused)
    assert Counter(str(node.target) for node in unexplained(inspected)) == expected.others
    norms = [str(site.ops[0]) for site in record.sites if site.fusion == "norm_quant"]
    assert norms[-1:] == [expected.op] * bool(norms)
    assert broken(inspected) == []


# Other schemes


@pytest.fixture
def int8_as_on_a_gpu(monkeypatch):
    """What torchao writes of an int8 product on a GPU; on a CPU it writes others."""
    monkeypatch.setattr(intmm, "_is_device", lambda *args: False)
    monkeypatch.setattr(intmm, "safe_int_mm", torch._int_mm)


def inspect_quantized(name, config, tokens=16):
    model = quantized(model_of(name), config)
    return the_one(inspect_model(model, [ids_of(model, tokens)], {}, verify=True))


def of_int8(expected):
    """Sites and unfused ops where products are in plain operations: Inductor puts a norm of q or k into their kernel."""
    turned = 2 * sum(expected.embeddings)
    apart = {(name, f"refused by {NORM_ROPE}"): turned for name in ("Norm", "Rope")} if turned else {}
    return {
        name: sorted(m, reverse=True) for name, m in expected.merged().items() if name != NORM_ROPE
    }, expected.unfused | apart


def assert_int8(inspected, expected):
    sites, unfused = of_int8(expected)
    assert sites_of(inspected.record) == sites
    assert_unfused(inspected.record, unfused)
    assert Counter(str(node.target) for node in unexplained(inspected)) == expected.others
    assert broken(inspected) == []
    assert all(
        str(refusal).startswith("x comes from ") for refusal in inspected.record.refusals if refusal.candidate == NORM_ROPE
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_int8_per_row_on_a_gpu(name, int8_as_on_a_gpu):
    inspected = inspect_quantized(name, torchao.quantization.Int8DynamicActivationInt8WeightConfig())
    assert_int8(inspected, MODELS[name])
    products = [kept for kept in inspected.record.kept if kept.fusion == "matmul"]
    assert len(products) == MODELS[name].linears
    assert all("Matmul(int8, scaled by row and column, rounded to bf16" in str(product.ops[0]) for product in products)
    assert {refusal.candidate for refusal in inspected.record.refusals} <= {NORM_ROPE}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_int8_per_row_on_a_cpu(name):
    """An operand is shifted by 128 and the shift taken off again: no product that is read, but the bytes reach products."""
    inspected = inspect_quantized(name, torchao.quantization.Int8DynamicActivationInt8WeightConfig())
    assert_int8(inspected, MODELS[name])
    assert kept_of(inspected.record) == quants_left(MODELS[name])
    reasons = [str(refusal) for refusal in inspected.record.refusals if refusal.candidate == "matmul"]
    assert len(reasons) == MODELS[name].linears


STATIC = {
    "fp8": lambda: torchao.quantization.Float8StaticActivationFloat8WeightConfig(
        act_quant_scale=torch.tensor([[[0.05]]]), granularity=torchao.quantization.PerTensor()
    ),
    "int8": lambda: torchao.quantization.Int8StaticActivationInt8WeightConfig(
        act_quant_scale=torch.tensor([[[0.05]]]), granularity=torchao.quantization.PerTensor()
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", STATIC)
@pytest.mark.parametrize("name", MODELS)
def test_static_scales(name, scheme, int8_as_on_a_gpu):
    """Each linear has a scale of its own, so q, k and v are three quantisers of one norm, which stay with Inductor."""
    expected = MODELS[name]
    inspected = inspect_quantized(name, STATIC[scheme]())
    record = inspected.record
    one_reader = {name: [1] * merged.count(1) for name, merged in expected.merged().items() if 1 in merged}
    if scheme == "int8":
        one_reader.pop(NORM_ROPE, None)
    assert sites_of(record) == one_reader
    assert len(record.kept) == expected.linears + 2 * expected.left.count(1)
    several = sum(count for count in 2 * (expected.norms + expected.quants + expected.left) if count > 1)
    assert sum(isinstance(each.op, Quantize) for each in record.unfused) == several
    by_scales = [refusal for refusal in record.refusals if refusal.candidate != NORM_ROPE]
    assert sum(refusal.candidate == "quant" for refusal in by_scales) == several
    assert all("static scales quantise one tensor, of which Inductor makes one kernel" in str(r) for r in by_scales)
    assert Counter(str(node.target) for node in unexplained(inspected)) == expected.others
    assert broken(inspected) == []


@pytest.mark.slow
def test_one_scale_for_the_whole_tensor_stays_with_inductor():
    granularity = torchao.quantization.PerTensor()
    config = torchao.quantization.Float8DynamicActivationFloat8WeightConfig(granularity=granularity)
    inspected = inspect_quantized("Llama", config)
    assert not inspected.record.sites
    assert Counter(refusal.candidate for refusal in inspected.record.refusals) == {
        "norm_quant": 4,
        "activation_quant": 2,
        "quant": 8,
    }
    assert all(str(refusal).startswith("one scale per tensor") for refusal in inspected.record.refusals)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_exact_changes_no_bit(name):
    """Run node by node on a CPU, where the reference of a kernel calls the torch operations of the chain."""
    model = fp8_models.quantize_fp8_per_row(model_of(name))
    ids = ids_of(model)
    found, outputs = [], []
    for options in ({"numerics": "exact"}, {"only": []}):
        torch._dynamo.reset()
        outputs.append(torch.compile(model, backend=make_inspecting_backend(found, options=options))(ids)[0])
    activation = {"GPTNeoX": "gelu", "Bert": "gelu", "Gemma2": "gelu tanh", "Gemma3Text": "gelu tanh"}.get(name, "silu")
    assert any(f"Activation({activation}" in text for site in found[0].record.sites for text in map(str, site.ops))
    assert outputs[0].isfinite().all() and torch.equal(*outputs)
