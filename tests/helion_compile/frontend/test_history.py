# SPDX-License-Identifier: Apache-2.0
"""``report``: what was compiled is found again by what ``torch.compile`` returned."""

import gc

import pytest
import torch
from torch import nn

import helion_compile
from helion_compile import report
from helion_compile.frontend import history
from helion_compile.frontend.backend import helion
from tests.support.corpus.quantisers import torchao_row

X = torch.randn(8, 64).bfloat16()


@pytest.fixture(autouse=True)
def no_cache():
    """A graph from a cache of an earlier run is not read, and so not in a report."""
    with torch._inductor.config.patch(fx_graph_cache=False):
        yield


class Quantizer(nn.Module):
    def forward(self, x):
        return torchao_row(x)


def test_of_a_function():
    compiled = torch.compile(torchao_row, backend="helion")
    assert report(compiled).graphs == ()
    assert "it has not been called yet" in " ".join(str(report(compiled)).split())
    compiled(X)
    told = report(compiled)
    (fused,) = told.sites
    assert fused.site.node == "quant" and fused.site.location.file == torchao_row.__code__.co_filename
    assert told.graphs[0].name == "0/0" and not told.graphs[0].training
    assert "quant = torch.ops.higher_order.helion_kernel(" in told.graphs[0].after
    known, explained = (str(each).partition("\n\n") for each in (told, helion_compile.explain(torchao_row, X)))
    assert known[0].startswith("torchao_row; torch ") and explained[0].startswith("torchao_row on cpu; torch ")
    assert known[2] == explained[2]


def test_of_a_module_and_of_one_compiled_in_place():
    module = Quantizer()
    compiled = torch.compile(module, backend="helion")
    compiled(X)
    assert len(report(compiled).sites) == 1
    with pytest.raises(TypeError, match="got a Quantizer that is not compiled"):
        report(module)
    torch.compiler.reset()  # else Dynamo has a graph already for an equal call of torch.compile
    module.compile(backend="helion")
    module(X)
    assert len(report(module).sites) == 1


def test_each_size_and_each_side_of_a_graph_break():
    def broken(x):
        q, scale = torchao_row(x)
        torch._dynamo.graph_break()
        return q, scale, *torchao_row(x)

    compiled = torch.compile(broken, backend="helion", dynamic=False)
    compiled(X)
    compiled(X[:4])
    told = report(compiled)
    assert [graph.name for graph in told.graphs] == ["0/0", "1/0", "0/1", "1/1"]
    assert [fused.site.shapes["x"] for fused in told.sites] == ["bf16[8, 64]"] * 2 + ["bf16[4, 64]"] * 2


class Doubler(nn.Module):
    def forward(self, x):
        return torchao_row(x * 2)


def test_models_are_told_apart():
    one, other = torch.compile(Quantizer(), backend="helion"), torch.compile(Doubler(), backend="helion")
    one(X)
    assert len(report(one).graphs) == 1 and report(other).graphs == ()
    other(X)
    assert [len(report(each).graphs) for each in (one, other)] == [1, 1]
    assert "aten.mul.Tensor" not in report(one).graphs[0].before and "aten.mul.Tensor" in report(other).graphs[0].before


class TestAnEqualCallOfCompile:
    """Dynamo compiles nothing for it, and what it uses is told."""

    def test_of_a_function(self):
        first, second = (torch.compile(torchao_row, backend="helion") for _ in range(2))
        first(X)
        with torch.compiler.set_stance("fail_on_recompile"):
            second(X)
        (graph,) = report(second).graphs
        assert graph.shared and not report(first).graphs[0].shared and len(graph.fused) == 1
        assert "compiled for an equal call of torch.compile, used here where" in " ".join(str(report(second)).split())

    def test_of_a_module_with_a_graph_break(self):
        class Broken(nn.Module):
            def forward(self, x):
                q, scale = torchao_row(x)
                torch._dynamo.graph_break()
                return q, scale, *torchao_row(x)

        first, second = (torch.compile(Broken(), backend="helion") for _ in range(2))
        first(X)
        second(X)
        assert [graph.shared for graph in report(second).graphs] == [True, True] and len(report(second).sites) == 2

    def test_what_it_compiles_itself_is_its_own(self):
        first, second = (torch.compile(torchao_row, backend="helion", dynamic=False) for _ in range(2))
        first(X)
        second(X[:4])
        (graph,) = report(second).graphs
        assert not graph.shared and graph.fused[0].site.shapes["x"] == "bf16[4, 64]"

    def test_another_call_is_not_served(self):
        first = torch.compile(torchao_row, backend="helion")
        first(X)
        assert report(torch.compile(torchao_row, backend="helion", options={"numerics": "exact"})).graphs == ()
        assert report(torch.compile(lambda x: torchao_row(x), backend="helion")).graphs == ()


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Quantizer(), Quantizer()])

    def forward(self, x):
        return [layer(x) for layer in self.layers]


class Pipeline:
    """As those of transformers and diffusers: no module, but with modules among its attributes."""

    def __init__(self, model):
        self.name, self.model = "pipeline", model

    def __call__(self, x):
        return self.model(x)


class Generator(Quantizer):
    """As a transformers model, whose ``generate`` calls ``self``, or what it compiled for a CompileConfig."""

    def generate(self, x, backend=None):
        if backend is not None:
            self._compiled_call = torch.compile(self.__call__, backend=backend)
        return (self if backend is None else self._compiled_call)(x)


class TestGenerate:
    def test_of_a_compiled_model_runs_the_one_inside(self):
        compiled = torch.compile(Generator(), backend="helion")
        compiled.generate(X)
        told = " ".join(str(report(compiled)).split())
        assert "calls that one, not the compiled one: give generate() cache_implementation='static'" in told

    @pytest.mark.parametrize("wrap", [lambda model: model, lambda model: torch.compile(model, backend="helion")])
    def test_compiles_for_itself(self, wrap):
        model = wrap(Generator())
        model.generate(X, backend="helion")
        assert [fused.site.fusion for fused in report(model).sites] == ["quant"]


class TestPartsOfAModel:
    """As diffusers' compile_repeated_blocks compiles them."""

    @pytest.fixture
    def model(self):
        return Layers()

    def test_layers_compiled_in_place(self, model):
        for layer in model.layers:
            layer.compile(backend="helion")
        assert report(model).graphs == ()
        model(X)
        (graph,) = report(model).graphs  # which both layers use
        assert not graph.shared and [fused.site.fusion for fused in graph.fused] == ["quant"]

    def test_layers_that_torch_compile_returned(self, model):
        model.layers[1] = torch.compile(model.layers[1], backend="helion")
        model(X)
        assert len(report(model).sites) == 1

    def test_a_forward_that_was_replaced(self, model):
        model.layers[0].forward = torch.compile(model.layers[0].forward, backend="helion")
        model(X)
        assert len(report(model).sites) == 1

    def test_a_pipeline_of_models(self, model):
        model.compile(backend="helion")
        model(X)
        assert len(report(Pipeline(model)).graphs) == 1
        assert len(report(Pipeline(nn.Sequential(model))).graphs) == 1

    def test_those_of_other_backends_are_left_out(self, model):
        model.layers[0].compile(backend="eager")
        with pytest.raises(ValueError, match="compiled with backend='eager'"):
            report(model)
        model.layers[1].compile(backend="helion")
        model(X)
        assert len(report(model).graphs) == 1


def test_dynamic_sizes_have_names_and_ranges():
    compiled = torch.compile(torchao_row, backend="helion", dynamic=True)
    torch._dynamo.mark_static(X, 1)
    compiled(X)
    told = report(compiled)
    ((name, symbol),) = told.graphs[0].record.symbols.items()
    assert told.sites[0].site.shapes["x"] == f"bf16[{name}, 64]" and symbol.traced == 8
    assert f"  {name}: 8 when traced, 2 and more" in str(told)
    assert told.sites[0].after.bytes == 8 * 64 * 2 + 8 * 64 + 8 * 4  # at the size that was traced


def test_training():
    weight = torch.nn.Parameter(torch.ones(64).bfloat16())
    compiled = torch.compile(lambda x: torch.nn.functional.rms_norm(x, [64], weight).sum(), backend="helion")
    compiled(X).backward()
    told = report(compiled)
    assert len(told.graphs) == 2 and all(graph.training for graph in told.graphs)


def test_nothing_is_kept_of_what_is_gone():
    compiled = torch.compile(Quantizer(), backend="helion")
    compiled(X)
    kept = len(history._compiled)
    torch.compiler.reset()
    assert report(compiled).graphs == ()
    del compiled
    gc.collect()
    assert len(history._compiled) < kept


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (torchao_row, TypeError, "got a function that is not compiled. explain"),
        (3, TypeError, "got a int that is not compiled"),
        (torch.compile(torchao_row, backend="eager"), ValueError, "compiled with backend='eager'"),
    ],
)
def test_what_has_no_report(what, error, message):
    with pytest.raises(error, match=message):
        report(what)


def test_the_backend_without_dynamo():
    """Called as a function, as other compilers do: nobody can ask for its report, and nothing fails."""
    module = torch.fx.symbolic_trace(lambda x: x + 1)
    assert torch.equal(helion(module, [X])(X)[0] if isinstance(helion(module, [X])(X), (tuple, list)) else X + 1, X + 1)
    assert history.current_reports() == [] and history.current_compilation() == ""
