"""Regions that are compiled once and called often (``torch.compiler.nested_compile_region``): what is told of them."""

import json

import pytest
import torch

import helion_compile
from helion_compile.reports.encoding import decode, encode
from helion_compile.reports.model import GraphReport
from tests.support.corpus.quantisers import torchao_row

X = torch.randn(8, 64).bfloat16()


@torch.compiler.nested_compile_region
def region(x):
    q, scale = torchao_row(x)
    return q, scale


@torch.compiler.nested_compile_region
def pair(x):
    return *region(x), *region(x + 1)


def thrice(x):
    return [region(x), region(x + 1), region(x + 2)]


def once(x):
    return torchao_row(x)


def nested(x):
    return *pair(x), *pair(x + 2)


def test_how_often_a_region_is_called_and_what_that_costs():
    report = helion_compile.explain(thrice, X)
    called, caller = report.graphs
    assert (called.calls, called.runs, called.caller) == (3, 3, 1) and (caller.runs, caller.caller) == (1, 0)
    assert "Graph 1 of 2: " in str(report) and "nodes, called 3 times by graph 2\n" in str(report)
    (site,), (alone,) = report.sites, helion_compile.explain(once, X).sites
    assert (site.before, site.after) == (alone.before.times(3), alone.after.times(3)) and site.before.kernels > 0
    graphs = json.loads(report.to_json())["graphs"]
    assert [(each["called_by"], each["runs"]) for each in graphs] == [(2, 3), (None, 1)]


def test_a_region_in_a_region():
    report = helion_compile.explain(nested, X)
    inner, middle, outer = report.graphs
    assert [(each.calls, each.runs, each.caller) for each in (inner, middle, outer)] == [(2, 4, 1), (2, 2, 1), (1, 1, 0)]
    assert "called 2 times by graph 2, 4 runs in all" in " ".join(str(report).split())


@pytest.mark.parametrize("cached", [False, True])
def test_what_runs_tells_the_same(cached, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with torch._inductor.config.patch(fx_graph_cache=cached, compile_threads=1):
        for _ in range(1 + cached):
            torch.compiler.reset()
            compiled = torch.compile(thrice, backend="helion")
            results = compiled(X)
            torch.testing.assert_close([scale for _, scale in results], [scale for _, scale in thrice(X)], rtol=2**-7, atol=0)
            called, caller = helion_compile.report(compiled).graphs
            assert (called.calls, called.caller, caller.caller) == (3, 1, 0)
            assert [fused.site.fusion for fused in called.fused] == ["quant"]
    assert called.cached == cached
    assert decode(list[GraphReport], encode([called])) == [called]
