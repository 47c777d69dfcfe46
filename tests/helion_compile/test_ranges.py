"""Ranges in a profiler's trace, and that there are none, and no cost, where they were not asked for."""

import gc

import pytest
import torch
from torch.profiler import profile

import helion_compile
from helion_compile import ranges

X = torch.randn(8, 64).bfloat16()


class Quantizer(torch.nn.Module):
    def forward(self, x):
        scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
        return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Quantizer(), Quantizer()])

    def forward(self, x, y):
        return self.layers[0](x), self.layers[1](y)


@pytest.fixture
def compiled():
    # The names are in the generated code, so a cache may hold those of another file.
    with torch._inductor.config.patch(fx_graph_cache=False):
        model = torch.compile(Model(), backend="helion")
        model(X, X + 1)
        yield model


@pytest.fixture
def places(compiled):
    """The two places in the code of `compiled`."""
    gc.collect()
    return [place for place in ranges._places if place.name.startswith("quant layers.")]


def names(profiler):
    return [event.name for event in profiler.events() if event.name.startswith("quant ")]


def test_each_launch_says_what_it_is_for(compiled):
    with helion_compile.profiling(), profile() as profiler:
        compiled(X, X + 1)
    first, second = names(profiler)
    assert first.startswith("quant layers.0 (") and second.startswith("quant layers.1 (")
    assert f"{__file__.rpartition('/')[2]}:" in first


def test_without_it_there_is_none_and_the_call_is_the_plain_one(compiled, places):
    with profile() as profiler:
        compiled(X, X + 1)
    assert names(profiler) == []
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


def test_an_error_ends_the_range():
    def fails():
        raise ValueError("no")

    with helion_compile.profiling():
        ranged = ranges.in_range("quant somewhere", fails)
        with profile() as profiler, pytest.raises(ValueError, match="no"):
            ranged()
    assert names(profiler) == ["quant somewhere"]
    assert ranges.in_range("x", fails) is fails
