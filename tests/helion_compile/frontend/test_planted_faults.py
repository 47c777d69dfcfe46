# SPDX-License-Identifier: Apache-2.0
"""What only tells something of a graph never stops a compilation: with a fault planted in it the model is compiled."""

import itertools
import logging

import pytest
import torch
from torch._inductor.utils import fresh_cache

import helion_compile
from helion_compile.passes.ir.dynamic_sizes import Symbol
from helion_compile.passes.rewrite.edits import Edits
from helion_compile.passes.rewrite.fusion_pass import FusionError

X = torch.randn(8, 64).bfloat16()
FRONTEND = "helion_compile.frontend.compile_graph"
PASS = "helion_compile.passes.rewrite.fusion_pass"


def quantize(x):
    scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
    return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


@pytest.fixture(autouse=True, scope="module")
def one_cache():
    """One for all tests: what Inductor makes of C++ is compiled once."""
    with fresh_cache(), torch._inductor.config.patch(fx_graph_cache=True), torch.no_grad():
        yield


_versions = itertools.count()


@pytest.fixture
def compile_anew(monkeypatch, caplog):
    """Compiles in a version of the package of its own, so that the pass runs; the result has to be eager's."""

    def compile_anew(function=quantize, x=X, version=None, **options):
        version = next(_versions) if version is None else version
        monkeypatch.setattr("helion_compile.frontend.options.digest_packages", lambda: f"version {version}")
        torch.compiler.reset()
        compiled = torch.compile(function, backend="helion", **options)
        with caplog.at_level(logging.INFO, "helion_compile"):
            q, scale = compiled(x)
        expected = function(x)
        torch.testing.assert_close(scale, expected[1], rtol=1e-2, atol=0)
        torch.testing.assert_close(q.float(), expected[0].float(), rtol=0.13, atol=0)  # one step of fp8
        return compiled

    return compile_anew


def fail(*args, **kwargs):
    raise RuntimeError("planted\nwith a second line")


def warnings(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING and "helion" in each.name]


ASIDE = [
    f"{PASS}.inventory",
    f"{PASS}.symbols_of",
    f"{PASS}.Lister.__call__",
    f"{PASS}.GraphRecord.summary",
    f"{FRONTEND}.dump_graph",
    f"{FRONTEND}.current_reports",
    f"{FRONTEND}.stored.make_key",
    f"{FRONTEND}.stored.load_reports",
    f"{FRONTEND}.stored.keep_reports",
    f"{FRONTEND}.make_reader",
    f"{FRONTEND}.specialize_eps",
    "helion_compile.frontend.on_graph.describe",
    "helion_compile.frontend.on_graph.annotate",
    "helion_compile.frontend.on_graph.trace_report",
    "helion_compile.frontend.on_graph.current_compilation",
    "helion_compile.reports.stored.symbols_in",
    "helion_compile.reports.stored._nodes",
]


@pytest.mark.parametrize("place", ASIDE)
def test_beside_the_rewriting(place, monkeypatch, compile_anew, caplog):
    with monkeypatch.context() as planted:
        planted.setattr(place, fail)
        compiled = compile_anew()
    told = helion_compile.report(compiled)
    assert str(told) and told.to_json() and told.to_html()
    (line,) = warnings(caplog)
    assert line.endswith("failed: RuntimeError: planted; the model is compiled all the same")


@pytest.mark.parametrize(
    "place",
    [
        f"{PASS}.Edits",
        "helion_compile.passes.rewrite.edits.Edits.replace_uses",
        "helion_compile.passes.rewrite.edits.Edits.move_readers_after",
        "helion_compile.passes.rewrite.edits.Edits.erase",
        "helion_compile.passes.rewrite.rewriting.match_graph",
        "helion_compile.passes.rewrite.rewriting.record_site",
    ],
)
def test_in_the_rewriting(place, monkeypatch, compile_anew, caplog):
    with monkeypatch.context() as planted:
        planted.setattr(place, fail)
        error = helion_compile.report(compile_anew()).graphs[0].record.error
        with pytest.raises(Exception, match="planted"):
            compile_anew(options={"strict": True})
    (line,) = warnings(caplog)
    assert "RuntimeError: planted; the graph is compiled without fusions" in line
    assert error in line


def test_a_graph_that_cannot_be_put_back_is_not_compiled(monkeypatch, compile_anew):
    monkeypatch.setattr(Edits, "erase", fail)
    monkeypatch.setattr(Edits, "undo", fail)
    with pytest.raises(Exception, match="so did putting the graph back as it was: RuntimeError: planted") as raised:
        compile_anew()
    assert FusionError.__name__ in repr([raised.value, raised.value.__cause__, raised.value.__context__])


def test_in_verifying(monkeypatch, compile_anew, caplog):
    monkeypatch.setattr(f"{FRONTEND}.verify_graph", fail)
    compiled = compile_anew(options={"verify": True})
    assert warnings(caplog) == ["verifying a graph failed: RuntimeError: planted; the graph is compiled without fusions"]
    assert not helion_compile.report(compiled).sites
    with pytest.raises(Exception, match="planted"):
        compile_anew(options={"verify": True, "strict": True})


@pytest.mark.parametrize("place", ["helion_compile.frontend.on_graph.trace_report", f"{FRONTEND}.stored.load_reports"])
def test_of_a_graph_from_the_cache(place, monkeypatch, compile_anew, caplog):
    compile_anew(version=place)
    monkeypatch.setattr(place, fail)
    compile_anew(version=place)
    (line,) = warnings(caplog)
    assert line.endswith("failed: RuntimeError: planted; the model is compiled all the same")


# --- graphs that such code stumbled over


def test_numbers_that_are_no_sizes(compile_anew, caplog):
    def shifted(x, number):
        return torch.relu(x) + number

    torch.compiler.reset()
    compiled = torch.compile(shifted, backend="helion", dynamic=True)
    for number in (3, 4, -6):
        assert torch.equal(compiled(X.float(), number), shifted(X.float(), number))
    assert "3 when traced, any integer" in str(helion_compile.report(compiled)) and not warnings(caplog)


@pytest.mark.parametrize(
    "symbol, text",
    [
        (Symbol(3, None, None), "3 when traced, any integer"),
        (Symbol(3, None, 8), "3 when traced, 8 and less"),
        (Symbol(None, 2, None), "depends on data, 2 and more"),
    ],
)
def test_their_bounds_are_told(symbol, text):
    assert str(symbol) == text


def test_an_item_and_a_graph_break(compile_anew, caplog):
    def broken(x):
        position = int(x.argmax().item())
        torch._dynamo.graph_break()
        return x * position + 1

    compiled = torch.compile(broken, backend="helion")
    for x in (X.float(), X.float().flip(0), -X.float()):
        assert torch.allclose(compiled(x), broken(x))
    helion_compile.report(compiled).to_json()
    assert not warnings(caplog)


def test_a_jagged_tensor(caplog):
    given = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(5, 8)], layout=torch.jagged)

    def double(x):
        return x * 2 + x.shape[0]

    torch.compiler.reset()
    for options in (None, {"verify": True}):
        compiled = torch.compile(double, backend="helion", options=options)
        assert torch.equal(compiled(given).values(), double(given).values())
        helion_compile.report(compiled).to_json()
    helion_compile.explain(double, given).to_json()
    assert not warnings(caplog)
