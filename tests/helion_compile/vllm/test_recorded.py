# SPDX-License-Identifier: Apache-2.0
"""The recorded graphs of vLLM 0.26: exact numbers of what is read and rewritten, and the same numbers out."""

from collections import Counter

import pytest
import torch
from torch._inductor import standalone_compile
from torch._inductor.pattern_matcher import stable_topological_sort

from helion_compile.definitions.registry import find_kernel
from helion_compile.frontend.options import Options
from helion_compile.fusions import fusions
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import norm_rope
from helion_compile.passes import FusionPass
from tests.support.vllm import recorded
from tests.support.vllm.recorded import SITES


def fused(graph):
    """The pass on a graph that is put in order, as vLLM does behind its last pass."""
    stable_topological_sort(graph)
    fusion_pass = FusionPass(fusions(), strict=True)
    fusion_pass(graph)
    (record,) = fusion_pass.records
    return record


@pytest.mark.parametrize("scheme", ["token", "tensor", "block"])
@pytest.mark.parametrize("index", range(3))
def test_sites(scheme, index):
    graph = recorded.graph(scheme, index)
    record = fused(graph)
    assert Counter(site.fusion for site in record.sites) == SITES[scheme][index]
    again = fused(graph)
    assert not again.sites, "the pass finds nothing in what it made"
    assert [refusal.candidate for refusal in again.refusals] == [refusal.candidate for refusal in record.refusals]


def test_what_is_read_of_the_middle_graph():
    record = fused(recorded.graph("token", 1))
    assert not record.refusals and not record.count_unfused()
    assert [kept.fusion for kept in record.kept] == ["matmul"] * 4
    with_sum = [site for site in record.sites if "sum" in site.shapes]
    assert {site.shapes["sum"] for site in with_sum} == {site.shapes["x"] for site in with_sum}


@pytest.mark.parametrize(("scheme", "refused"), [("token", []), ("tensor", []), ("block", ["quantize"])])
def test_what_is_not_read(scheme, refused):
    record = fused(recorded.graph(scheme, 1))
    assert [refusal.candidate for refusal in record.refusals] == refused
    assert all("in front of vLLM's fusions, activation and quantiser fuse" in str(refusal) for refusal in record.refusals)


def test_queries_and_keys_are_read_where_the_product_left_them():
    graph = recorded.graph("token", 1)
    fused(graph)
    calls = graph.find_nodes(op="call_function", target=helion_kernel)
    calls = [node for node in calls if node.kwargs["kernel"] == norm_rope.name]
    for node, heads in zip(calls, (8, 32), strict=True):
        x = node.args[0].meta["val"]
        assert x.shape[2:] == (heads, 128) and x.shape[0] == 1 and x.stride()[1:] == (6144, 128, 1)
        (result,) = node.users
        assert result.meta["val"].shape[1:] == (heads, 128) and result.meta["val"].is_contiguous()


def test_scales_keep_their_layout_and_format():
    graph = recorded.graph("block", 1)
    fused(graph)
    quantisers = {}
    for node in graph.find_nodes(op="call_function", target=helion_kernel):
        if "quant" in node.kwargs["kernel"]:
            (text,) = [argument for argument in node.args if isinstance(argument, str) and "float8" in argument]
            quantisers.setdefault(find_kernel(node.kwargs["kernel"]).short_name, set()).add(text)
            _, scale, *_ = node.meta["val"]
            assert scale.stride(0) == 1 and "//4" in str(scale.stride(1))
    assert all("layout=tma_aligned" in text and "group=128" in text for texts in quantisers.values() for text in texts)
    # What vLLM quantises alone has scales of powers of two; what it fused with the norm has not.
    assert {name: "ue8m0" in text for name, (text,) in quantisers.items()} == {"quant": True, "norm_quant": False}


def arguments(graph, tokens):
    """Real inputs of a small graph, fp8 weights and scales of useful size."""
    torch.manual_seed(0)
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta["val"]
        if isinstance(value, torch.SymInt):
            yield tokens
            continue
        shape = [tokens if isinstance(size, torch.SymInt) else size for size in value.shape]
        if value.dtype in (torch.int32, torch.int64):
            yield torch.arange(tokens, dtype=value.dtype)
        elif value.dtype == torch.float32:
            yield 0.01 + 0.01 * torch.rand(shape)
        else:
            yield torch.randn(shape).mul(8 if value.dtype == torch.float8_e4m3fn else 1).to(value.dtype)


def compiled(graph, fusion_pass=None):
    """Compiled the way vLLM compiles: for any number of tokens, by the custom post-grad pass."""
    patches = {"enable_auto_functionalized_v2": False, "fx_graph_cache": False}
    if fusion_pass:
        patches["post_grad_custom_post_pass"] = fusion_pass
    inputs = [node.meta["val"] for node in graph.find_nodes(op="placeholder")]
    for node in graph.output_node().all_input_nodes:
        node.meta["example_value"] = node.meta["val"]  # where torch 2.11 looks for the sizes' symbols, as Dynamo leaves them
    with torch.no_grad():
        return standalone_compile(graph.module, inputs, dynamic_shapes="from_graph", options={"config_patches": patches})


@pytest.mark.parametrize("scheme", ["token", "tensor"])
@pytest.mark.parametrize("index", range(3))
def test_exact_numerics_change_no_bit(scheme, index):
    graph, kept = (recorded.graph(scheme, index, small=True) for _ in range(2))
    inputs = list(arguments(kept, 16))
    fusion_pass = FusionPass(fusions("exact"), strict=True)
    fusion_pass(graph)
    assert Counter(site.fusion for site in fusion_pass.records[0].sites) == SITES[scheme][index]
    found, expected = (torch.fx.Interpreter(each.module, graph=each).run(*inputs) for each in (graph, kept))
    memory_for_attention = 3
    for position, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert position == memory_for_attention or torch.equal(ours, theirs), position


# The last graph's one result is the norm behind all fused chains.
@pytest.mark.parametrize("scheme", ["token", "tensor"])
def test_one_compiled_graph_serves_all_numbers_of_tokens(scheme):
    fusion_pass = Options().fusion_pass()
    ours = compiled(recorded.graph(scheme, 2, small=True), fusion_pass)
    kept = recorded.graph(scheme, 2, small=True)
    theirs = compiled(kept)
    assert Counter(site.fusion for site in fusion_pass.records[0].sites) == SITES[scheme][2]
    for tokens in (1, 5, 16):
        inputs = list(arguments(kept, tokens))
        with torch.no_grad():
            (found,), (expected,) = ours(*inputs), theirs(*inputs)
        # Both round values to fp8 on the way, where a last bit before moves a value by 1/16 after.
        distance = (found.float() - expected.float()).norm() / expected.float().norm()
        assert distance < 0.02
