# SPDX-License-Identifier: Apache-2.0
"""passes.patterns.custom_ops.library_quantize: quantisers of other libraries, known by name."""

import dataclasses
import operator

import pytest
import torch
from torch._subclasses import FakeTensorMode

from helion_compile.passes.ir.values import rounded
from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.semantics import Quantize, ScaleDivision, ScaleUse
from tests.support import programs, stubs

FP32, E4M3 = torch.float32, torch.float8_e4m3fn
FACTS = dict(x_dtype=torch.bfloat16, dtype=E4M3, qmax=448.0, scale_dtype=FP32, clamp=(-448.0, 448.0))
ROW = Quantize(**FACTS, use=ScaleUse.MULTIPLY_QUOTIENT, amax_floor=rounded(1e-12, FP32))
PER_ROW = Quantize(**FACTS, use=ScaleUse.DIVIDE, division=ScaleDivision.TENSOR, scale_floor=rounded(1 / (448 * 512), FP32))
MEANINGS = {"triton.quantize_fp8_row": ROW, "fbgemm.quantize_fp8_per_row": PER_ROW, "mslk.quantize_fp8_per_row": PER_ROW}


@pytest.fixture(autouse=True)
def libraries():
    with stubs.libraries():
        yield


def graph_of(name, dtype=E4M3, results=(0, 1), **given):
    """A graph of one call, whose arguments ``given`` as tensors are placeholders."""
    namespace, _, called = name.partition(".")
    graph, mode = torch.fx.Graph(), FakeTensorMode()

    def placeholder(key, tensor):
        node = graph.placeholder(key)
        node.meta["val"] = mode.from_tensor(tensor)
        return node

    x = placeholder("x", programs.tensor(2, 8, 64))
    given = {key: placeholder(key, value) if isinstance(value, torch.Tensor) else value for key, value in given.items()}
    call = graph.call_function(getattr(getattr(torch.ops, namespace), called).default, (x,), given)
    values = torch.empty(2, 8, 64, dtype=dtype), torch.empty(2, 8)
    nodes = [graph.call_function(operator.getitem, (call, index)) for index in results]
    for index, node in zip(results, nodes, strict=True):
        node.meta["val"] = mode.from_tensor(values[index])
    graph.output(tuple(nodes))
    return graph


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("name", MEANINGS)
def test_a_quantiser(name, bound):
    given = {"scale_ub": torch.tensor([1.5])} if bound else {}
    (match,) = match_graph(graph_of(name, **given)).matches
    assert match.op == dataclasses.replace(MEANINGS[name], scale_ub=bound)
    assert set(match.inputs) == ({"x", "scale_ub"} if bound else {"x"})
    assert [len(match.outputs[name]) for name in ("q", "scale")] == [1, 1]


@pytest.mark.parametrize("name", MEANINGS)
def test_bytes_that_nobody_reads(name):
    matched = match_graph(graph_of(name, results=(1,)))
    assert not matched.matches and not matched.refusals


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        (
            "triton.quantize_fp8_row",
            {"align_rows_to": 16},
            "is given align_rows_to=16; with align_rows_to=None it can be read",
        ),
        ("triton.quantize_fp8_row", {"use_triton": False}, "is given use_triton=False; with use_triton=True it can be read"),
        ("triton.quantize_fp8_row", {"zero_start_index_M": torch.ones(2)}, "is given zero_start_index_M=zero_start_index_m;"),
        ("fbgemm.quantize_fp8_per_row", {"bs": torch.ones(2)}, "is given bs=bs; with bs=None it can be read"),
        ("mslk.quantize_fp8_per_row", {"stochastic_rounding": True}, "is given stochastic_rounding=True; with"),
        ("mslk.quantize_fp8_per_row", {"dtype": torch.float8_e5m2}, "gives fp8 e5m2; fp8 e4m3 can be read"),
    ],
)
def test_another_function(name, given, reason):
    matched = match_graph(graph_of(name, **given))
    assert not matched.matches
    (refusal,) = matched.refusals
    assert str(refusal).startswith(f"{name} {reason}") and refusal.remedy
