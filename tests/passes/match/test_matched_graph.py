# SPDX-License-Identifier: Apache-2.0
"""passes.match.matched_graph: many matches in one graph."""

import time

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Norm, Quantize
from tests.support import programs
from tests.support.capture import capture
from tests.support.corpus import quantisers

aten, prims = torch.ops.aten, torch.ops.prims


def test_copies_of_a_norm_and_of_its_quantisers_are_one_of_each():
    def program(x, weight):
        return [quantisers.torchao_row(programs.llama_norm(x, weight)) for _ in range(3)]

    matches = match_graph(capture(program, programs.tensor(8, 64), programs.tensor(64)).graph).matches
    assert [type(match.op) for match in matches] == [Norm, Quantize]
    assert [match.merged for match in matches] == [3, 3]


def test_reading_leaves_the_graph_alone():
    graph = capture(quantisers.torchao_row, programs.tensor(8, 64)).graph
    before = str(graph)
    match_graph(graph)
    assert str(graph) == before


def test_nodes_without_values_are_no_candidates():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(aten.rsqrt.default, (graph.call_function(aten.add.Tensor, (x, 1)),)))
    assert not match_graph(graph).matches


def norms_in_a_row(count: int) -> torch.fx.Graph:
    """A graph of about 10 * count nodes: norms and quantisers of norms, and a weight that all of them read."""
    graph = torch.fx.Graph()
    mode = FakeTensorMode()
    values = {dtype: mode.from_tensor(torch.empty(8, 64, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32)}
    values |= {"row": mode.from_tensor(torch.empty(8, 1)), "weight": mode.from_tensor(torch.empty(64).bfloat16())}
    values["row16"] = mode.from_tensor(torch.empty(8, 1).bfloat16())
    values["q"] = mode.from_tensor(torch.empty(8, 64).to(torch.float8_e4m3fn))

    def node(value, target, *args):
        created = graph.call_function(target, args) if callable(target) else graph.placeholder(target)
        created.meta["val"] = values[value]
        return created

    bf16, fp32 = torch.bfloat16, torch.float32
    x, weight = node(bf16, "x"), node("weight", "weight")
    outputs = []
    for _ in range(count):
        wide = node(fp32, prims.convert_element_type.default, x, fp32)
        mean = node("row", aten.mean.dim, node(fp32, aten.pow.Tensor_Scalar, wide, 2), [-1], True)
        rstd = node("row", aten.rsqrt.default, node("row", aten.add.Tensor, mean, 1e-6))
        rounded = node(bf16, prims.convert_element_type.default, node(fp32, aten.mul.Tensor, wide, rstd), bf16)
        x = node(bf16, aten.mul.Tensor, weight, rounded)
        amax = node("row16", aten.amax.default, node(bf16, aten.abs.default, x), [-1], True)
        scale = node("row", prims.convert_element_type.default, node("row16", aten.div.Tensor, amax, 448.0), fp32)
        value = node(fp32, aten.div.Tensor, node(fp32, prims.convert_element_type.default, x, fp32), scale)
        outputs.append(node("q", prims.convert_element_type.default, value, torch.float8_e4m3fn))
    graph.output(tuple(outputs))
    return graph


def test_time_is_linear_in_the_number_of_nodes():
    def seconds(graph: torch.fx.Graph) -> float:
        started = time.process_time()
        matched = match_graph(graph)
        assert not matched.refusals
        return time.process_time() - started

    small, large = norms_in_a_row(300), norms_in_a_row(3000)
    assert len(match_graph(large).matches) == 6000
    # Ten times the nodes: quadratic growth would take 100 times as long.  The best of three leaves the noise out.
    ratio = min(seconds(large) for _ in range(3)) / min(seconds(small) for _ in range(3))
    assert ratio < 30
