# SPDX-License-Identifier: Apache-2.0
"""The account of what was not done: what would fuse, how near it came, what is unfused and why, and what else is there."""

import dataclasses

import pytest
import torch

from helion_compile.passes.account.refusal import Detail, Refusal, RefusalKind
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.rewrite.fusion_pass import FusionPass
from tests.support import programs, stubs
from tests.support.capture import capture
from tests.support.checks import assert_same_bits, rewritten
from tests.support.corpus import norms, quantisers

X, WEIGHT = programs.tensor(8, 64), programs.tensor(64)


def refusal(found="{x} is {dtype}", remedy="fp32 fuses", x="x", dtype=torch.bfloat16, **attributes):
    details = (Detail.of("x", x), Detail.of("dtype", dtype))
    return Refusal(RefusalKind.DTYPE, "node", found, remedy, details, **attributes)


def test_texts_are_made_of_the_details():
    assert (refusal().found, refusal().remedy, str(refusal())) == ("x is bf16", "fp32 fuses", "x is bf16; fp32 fuses")
    expected = dataclasses.replace(refusal(remedy="x in fp32"), kind=RefusalKind.PATTERN)
    assert str(expected) == "expected x in fp32, found x is bf16"


@pytest.mark.parametrize("forms", [("", "fp32 fuses"), ("x is {dtype}", ""), ("x is {shape}", "fp32 fuses")])
def test_a_refusal_says_what_was_found_and_what_would_fuse(forms):
    with pytest.raises(ValueError, match="a refusal says what was found and what would fuse"):
        refusal(*forms)


def test_what_reports_tell_once():
    """Refusals that differ in the names of nodes, or in the numbers of layers, are alike; others are not."""

    def program(x):
        return x.sin().sin().cos()

    first, second, other = (node for node in capture(program, X).graph.nodes if node.op == "call_function")
    assert refusal(x=first).found == "aten.sin.default (sin) is bf16" and refusal(x=first) != refusal(x=second)
    assert refusal(x=first).group == refusal(x=second).group != refusal(x=other).group
    assert refusal().group != refusal(dtype=torch.float16).group
    places = [Location(f"model.layers.{layer}", "/model.py", 3) for layer in range(2)]
    assert refusal(x=places[0]).group == refusal(x=places[1]).group


def test_match_progress():
    assert refusal().near == ""
    assert refusal(matched=("a", "b"), missing=("c",)).near == "matched 2 of 3 steps"


def test_what_has_no_steps_has_no_progress():
    """The reason for which an activation is refused is not that something reads its inner values."""

    def program(x):
        return torch.nn.functional.gelu(x * 2, approximate="tanh") * 0 + (x.double() * torch.sigmoid(x.double()))

    _, record = rewritten(program, X)
    (found,) = (each for each in record.refusals if each.candidate == "activation")
    assert found.kind is RefusalKind.DTYPE and (found.matched, found.missing, found.near) == ((), (), "")


def test_a_quantiser_that_is_matched_up_to_its_scale():
    def program(x):
        return (x.float() / x.abs().amax(-1, keepdim=True).float()).to(torch.float8_e4m3fn)

    _, record = rewritten(program, X)
    (found,) = record.refusals
    assert found.matched == ("x by the scale", "the cast")
    assert found.missing == ("magnitudes", "the largest", "the scale", "nothing else reads its inner values")
    assert found.near == "matched 2 of 6 steps" and found.remedy == "a scale of max |x| / qmax fuses"


def test_a_norm_whose_inside_is_read():
    def program(x, weight):
        x32 = x.float()
        rstd = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)
        return quantisers.torchao_row(weight * (x32 * rstd).to(x.dtype)), rstd.sin()

    _, record = rewritten(program, X, WEIGHT)
    (found,) = (each for each in record.refusals if each.candidate == "norm")
    assert found.near == "matched 4 of 5 steps" and found.missing == ("nothing else reads its inner values",)
    assert "aten.rsqrt.default (rsqrt), an intermediate value, is also read by aten.sin.default (sin) at " in found.found
    assert found.remedy.startswith("without that reader it fuses")


def too_wide(chain):
    return chain.refuse(RefusalKind.SHAPE, "it is too wide", "less fuses")


def test_a_chain_that_a_fusion_refuses():
    never = FusionPass([stubs.Fusion("never", stubs.QUANTIZE.chain, stubs.build_quantize, check=too_wide)])
    capture(quantisers.torchao_row, X, graph_pass=never)
    (record,) = never.records
    (found,) = record.refusals
    assert found.missing == ("the kernel computes this", "there is a place for it")
    assert found.near == "matched 6 of 8 steps" and found.remedy == "less fuses"
    (unfused,) = record.unfused
    assert (unfused.name, str(unfused.refusal), unfused.node) == ("Quantize", "refused by never; see there", found.node)
    assert record.count_unfused() == {"Quantize": 1}


def test_what_is_unfused_and_why():
    def program(x, weight):
        return programs.llama_norm(x, weight).sin(), programs.llama_norm(x + 1, weight)

    _, record = rewritten(program, X, WEIGHT, fusions=[stubs.NORM_QUANTIZE])
    first, last = record.unfused
    assert first.refusal.kind is last.refusal.kind is RefusalKind.NO_CHAIN
    assert first.refusal.found.startswith("the result is read by aten.sin.default (sin) at ")
    assert last.refusal.found == "the result is read by whoever called the graph"
    assert last.refusal.remedy == "the fusions in use take Norm -> Quantize"
    assert first.location.file in (__file__, programs.__file__, norms.__file__)
    _, record = rewritten(program, X, WEIGHT, fusions=[])
    refusal = record.unfused[0].refusal
    assert (refusal.kind, refusal.found) == (RefusalKind.NO_FUSION, "no fusion in use takes RMSNorm")


def test_what_reads_an_unfused_norm_and_could_not_be_matched_itself():
    def program(x, weight):
        normed = programs.llama_norm(x, weight)
        return (normed / (normed.abs().amax(-1, keepdim=True) / 448.0)).to(torch.float8_e4m3fn)

    _, record = rewritten(program, X, WEIGHT)
    (unfused,) = record.unfused
    assert "(div_1), which could not be matched as a quantiser, see there" in str(unfused.refusal)


class TestWhatIsThere:
    def test_an_inventory(self):
        def program(x, weight, b):
            return quantisers.torchao_row(torch.nn.functional.layer_norm(x, [64], weight) @ b)

        module = capture(program, X, WEIGHT, programs.tensor(64, 32))
        fusion_pass = FusionPass([])
        fusion_pass(module.graph)
        found = {(item.kind, item.operation): item.count for item in fusion_pass.records[0].inventory}
        assert found["quantize", "cast to fp8 e4m3"] == 1
        assert found["matmul", "aten.mm.default of bf16"] == 1
        assert sum(count for (kind, _), count in found.items() if kind == "norm") >= 1
        assert all(item.first.file for item in fusion_pass.records[0].inventory)

    def test_symbols(self):
        x = programs.tensor(8, 64)
        torch._dynamo.mark_dynamic(x, 0, min=2, max=4096)
        fusion_pass = FusionPass([])
        capture(lambda x: x + 1, x, graph_pass=fusion_pass, dynamic=None)
        (symbol,) = fusion_pass.records[0].symbols.values()
        assert (symbol.traced, symbol.low, symbol.high) == (8, 2, 4096)
        assert str(symbol) == "8 when traced, 2 to 4096"

    def test_lines_and_their_cost(self):
        fusion_pass = FusionPass([stubs.NORM_QUANTIZE], keep_code=True)
        capture(lambda x: x.reshape(4, 128).float() * 2, X, graph_pass=fusion_pass)
        (record,) = fusion_pass.records
        costs = {line.text.partition(" = ")[2].partition("(")[0]: (line.kernels, line.bytes) for line in record.lines_before}
        assert costs["aten.reshape.default"] == (0, 0)
        assert costs["aten.mul.Tensor"] == (1, 2 * 8 * 64 * 4)  # fp32 in and out
        assert costs["prims.convert_element_type.default"] == (1, 8 * 64 * (2 + 4))
        assert record.lines_before[0].text == "bf16[8, 64] = input"


BROKEN = Refusal(RefusalKind.VERIFY, "", "broken", "another kernel fuses")


class TestSites:
    def test_nodes_are_called_after_the_fusion(self):
        after, record = rewritten(lambda x, y: (*quantisers.torchao_row(x), *quantisers.torchao_row(y)), X, X + 1)
        assert [site.node for site in record.sites] == ["quantize", "quantize_1"]
        names = {node.name for node in after.graph.nodes}
        for site in record.sites:
            assert site.node in site.nodes and names.issuperset(site.nodes) and not names & set(site.replaced)

    def test_a_rejected_chain_is_left_and_told(self):
        def program(x, y):
            return (*quantisers.torchao_row(x), *quantisers.torchao_row(y))

        _, record = rewritten(program, X, X + 1)
        first, second = record.sites
        after, record = rewritten(program, X, X + 1, reject={("quantize", first.anchor): BROKEN})
        (site,), (found,) = record.sites, record.refusals
        assert site.anchor == second.anchor
        assert found.kind is RefusalKind.VERIFY and (found.candidate, found.node) == ("quantize", first.anchor)
        assert (found.found, found.remedy) == ("broken", "another kernel fuses") and found.location == first.location

    def test_rejecting_changes_the_key_of_caches(self):
        assert FusionPass(stubs.ALL).uuid() != FusionPass(stubs.ALL, reject={("quantize", "convert"): BROKEN}).uuid()

    def test_the_original_computes_what_the_site_does(self):
        def program(x, residual, weight):
            total = x + residual
            return *quantisers.torchao_row(programs.llama_norm(total, weight)), total

        fusion_pass = FusionPass(stubs.ALL, strict=True, keep_originals=True)
        captured = capture(program, X, X + 1, WEIGHT, graph_pass=fusion_pass)
        (record,) = fusion_pass.records
        (site,) = record.sites
        original = record.originals[site.node]
        nodes = {node.name: node for node in captured.graph.nodes}
        assert set(original.names) == {"q", "scale", "sum"} and set(original.outputs) <= set(nodes)
        given = dict(zip((node.name for node in captured.graph.find_nodes(op="placeholder")), (X, X + 1, WEIGHT), strict=True))
        found = dict(zip(original.names, original.module(*[given[name] for name in original.inputs]), strict=True))
        assert_same_bits([found["q"], found["scale"], found["sum"]], program(X, X + 1, WEIGHT))

    def test_the_original_of_copies_under_views_of_their_own_begins_where_they_part(self):
        """What computes the value that both look at is no part of it: it may differ from what the rewritten graph computes."""

        def program(x):
            y = torch.sin(x)
            return [quantisers.torchao_row(y.unsqueeze(0)) for _ in range(2)]

        fusion_pass = FusionPass(stubs.ALL, strict=True, keep_originals=True)
        capture(program, X, graph_pass=fusion_pass)
        (record,) = fusion_pass.records
        (site,) = record.sites
        assert site.merged == 2
        original = record.originals[site.node]
        assert torch.ops.aten.sin.default not in [node.target for node in original.module.graph.nodes]
        given = [X if name == "sin" else X.unsqueeze(0) for name in original.inputs]
        assert_same_bits(original.module(*given)[0], quantisers.torchao_row(X.unsqueeze(0))[0])
