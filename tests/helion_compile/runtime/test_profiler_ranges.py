# SPDX-License-Identifier: Apache-2.0
"""Ranges in a profiler's trace, and that there are none, and no cost, where nobody profiles."""

import gc

import pytest
import torch
from torch.profiler import profile

import helion_compile
from helion_compile.kernels import quant
from helion_compile.passes.ir.source_location import shown_path
from helion_compile.runtime import profiler_ranges
from tests.support.corpus.quantisers import torchao_row

X = torch.randn(8, 64).bfloat16()


class Quantizer(torch.nn.Module):
    def forward(self, x):
        return torchao_row(x)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Quantizer(), Quantizer()])

    def forward(self, x, y):
        return self.layers[0](x), self.layers[1](y)


@pytest.fixture
def compiled(kernels_are_called):
    model = torch.compile(Model(), backend="helion")
    model(X, X + 1)
    return model


@pytest.fixture
def places(compiled):
    """The two places in the code of `compiled`."""
    gc.collect()
    return [place for place in profiler_ranges._places if place.name.startswith("quant layers.")]


def names(profiler):
    return [event.name for event in profiler.events() if event.name.startswith("quant ")]


def assert_both(found):
    first, second = found
    assert first.startswith("quant layers.0 (") and second.startswith("quant layers.1 (")
    assert "quantisers.py:" in first


def test_a_profiler_shows_which_place_of_the_model_each_launch_is_for(compiled, places):
    """With nothing but the profiler; and when it has ended, the calls are the plain ones again."""
    with profile() as profiler:
        compiled(X, X + 1)
        compiled(X, X + 1)
    assert_both(names(profiler)[:2])
    assert_both(names(profiler)[2:])
    compiled(X, X + 1)
    assert all(place.call == place.find for place in places)
    with profile() as profiler:
        compiled(X, X + 1)
    assert_both(names(profiler))


def test_without_a_profiler_the_call_is_the_plain_one(compiled, places):
    compiled(X, X + 1)
    assert len(places) >= 2  # and those of modules that Inductor keeps
    for place in places:
        assert place.call == place.find  # no wrapper in between: the cost is nothing
    with helion_compile.profiling():
        assert all(place.call != place.find for place in places)
        with helion_compile.profiling():
            pass
        assert all(place.call != place.find for place in places)
        for place in places:
            place.clear()  # as when plans are dropped
        assert all(place.call != place.find for place in places)
    assert all(place.call == place.find for place in places)


def test_nsights_ranges(compiled, monkeypatch):
    """NVTX is for those who ask: torch's profiler makes its own of it."""
    pushed = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", pushed.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: pushed.append("end"))
    with profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        compiled(X, X + 1)
    assert pushed == []
    with helion_compile.profiling():
        compiled(X, X + 1)
    assert_both(pushed[::2])
    assert pushed[1::2] == ["end", "end"]


def test_a_graph_asks_once(compiled):
    from torch._inductor.utils import run_and_get_code

    torch.compiler.reset()
    _, (code,) = run_and_get_code(torch.compile(Model(), backend="helion"), X, X + 1)
    assert code.count("helion_ranges.follow_profiler()") == 1 and code.count("_op") > 2


def test_an_eager_call_says_its_line():
    with profile() as profiler:
        quant(X, None, None, "float8_e4m3fn clamp=-448:448 scale_dtype=bfloat16", False)
    (name,) = names(profiler)
    file, line = name.removeprefix("quant ").rsplit(":", 1)
    assert file == shown_path(__file__) and "quant(X, None" in open(__file__).read().splitlines()[int(line) - 1]


def test_an_eager_call_that_is_traced_is_a_node_also_while_somebody_profiles():
    from torch.fx.experimental.proxy_tensor import make_fx

    with profile():
        traced = make_fx(lambda x: quant(x, None, None, "float8_e4m3fn clamp=-448:448 scale_dtype=bfloat16", False))(X)
    assert "helion_kernel" in traced.code


def test_an_error_ends_the_range():
    def fails():
        raise ValueError("no")

    with helion_compile.profiling():
        ranged = profiler_ranges.in_range("quant somewhere", fails)
        with profile() as profiler, pytest.raises(ValueError, match="no"):
            ranged()
    assert names(profiler) == ["quant somewhere"]
    assert profiler_ranges.in_range("x", fails) is fails
