# SPDX-License-Identifier: Apache-2.0
"""Weights unwrapped when compiling: the same numbers, caches and static inputs, without the work on each call."""

import copy
from importlib.util import find_spec

import fp8_models
import pytest
import torch
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import aot_module_simplified
from torch._inductor.utils import fresh_cache

from helion_compile.graph import unwrap_subclasses

K = 64


@pytest.fixture(autouse=True)
def wanted(monkeypatch):
    monkeypatch.setattr(unwrap_subclasses, "is_needed", lambda: True)
    torch.compiler.reset()
    with torch.no_grad(), fresh_cache():
        yield


class Linears(torch.nn.Sequential):
    device = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    linears = Linears(*(torch.nn.Linear(K, K, bias=bias, dtype=torch.bfloat16) for bias in (True, False)))
    return fp8_models.quantize_fp8_per_row(linears.eval().requires_grad_(False))


def x_of(rows=16):
    return torch.randn(rows, K).bfloat16()


def test_the_numbers_stay_and_every_call_does_less(model, monkeypatch):
    x, calls, results, counted = x_of(), [], [], []
    kind = type(model[0].weight)
    flatten = kind.__tensor_flatten__
    for needed in (True, False):
        monkeypatch.setattr(unwrap_subclasses, "is_needed", lambda needed=needed: needed)
        torch.compiler.reset()
        run = torch.compile(model, backend="helion", fullgraph=True)
        run(x)
        counted.clear()
        monkeypatch.setattr(kind, "__tensor_flatten__", lambda self: (counted.append(self), flatten(self))[1])
        results.append(run(x))
        calls.append(len(counted))
        monkeypatch.setattr(kind, "__tensor_flatten__", flatten)
    assert torch.equal(*results)
    # Dynamo's guards look at each weight in both; torch's own code from 2.13 on does nothing besides.
    torch_does_it = find_spec("torch._functorch._aot_autograd.subclass_codegen") is not None
    assert calls[0] == calls[1] if torch_does_it else calls[0] < calls[1]


def test_new_weights_are_seen(model):
    other = copy.deepcopy(model)
    run = torch.compile(model, backend="helion", fullgraph=True)
    x = x_of()
    run(x)
    model[0].weight.qdata.copy_(model[0].weight.qdata.flip(0))
    written = run(x)
    other[0].weight.qdata.copy_(other[0].weight.qdata.flip(0))
    assert torch.equal(written, torch.compile(other, backend="helion", fullgraph=True)(x))
    model[0].weight = torch.nn.Parameter(other[1].weight, requires_grad=False)
    other[0].weight = other[1].weight
    assert torch.equal(run(x), torch.compile(other, backend="helion", fullgraph=True)(x))
    assert not torch.equal(run(x), written)


def test_a_second_compilation_comes_from_the_caches(model):
    counters.clear()
    for _ in range(2):
        torch.compiler.reset()
        torch.compile(model, backend="helion", fullgraph=True)(x_of())
    assert counters["aot_autograd"]["autograd_cache_bypass"] == 0
    assert counters["aot_autograd"]["autograd_cache_hit"] >= 1


def test_parts_are_static_inputs_of_cuda_graphs(model):
    static = {}

    def backend(gm, inputs):
        gm, inputs, parts_of = unwrap_subclasses.unwrap_weights(gm, inputs)
        names = [node.name for node in gm.graph.find_nodes(op="placeholder")]

        def compiler(graph, example_inputs):
            indices = torch._guards.TracingContext.get().fw_metadata.static_input_indices
            static.update((name, index in indices) for index, name in enumerate(names))
            return graph

        run = aot_module_simplified(gm, inputs, fw_compiler=compiler)
        return lambda *args: run(*parts_of(*args))

    torch.compile(model, backend=backend, fullgraph=True)(x_of())
    assert sorted(static.values()) == [False, True, True, True, True, True]  # x; two parts of each weight and the bias
    assert sum(name.endswith(("_qdata", "_scale")) for name in static) == 4


def apart_of(function, *args):
    """What ``unwrap_weights`` makes of the graph of ``function``, and that graph before and after."""
    seen = []

    def backend(gm, inputs):
        before = str(gm.graph)
        seen.append((unwrap_subclasses.unwrap_weights(gm, inputs), before, str(gm.graph)))
        return gm

    torch.compile(function, backend=backend, fullgraph=True)(*args)
    return seen[-1]


def test_dynamos_graph_is_left_alone(model):
    apart, before, after = apart_of(model, x_of())
    assert apart is not None and before == after


def test_what_stays_whole(model):
    weight = model[0].weight
    assert apart_of(lambda x, w: torch.nn.functional.linear(x, w), x_of(), weight.data)[0] is None  # no weight but an input
    assert apart_of(lambda x: x + 1, x_of())[0] is None
    assert apart_of(torch.nn.Linear(K, K, dtype=torch.bfloat16), x_of())[0] is None
