# SPDX-License-Identifier: Apache-2.0
"""Regions that are compiled once and called often (``torch.compiler.nested_compile_region``): what is told of them."""

import json

import pytest
import torch

import helion_compile
from helion_compile import fusions
from helion_compile.reports.encoding import decode, encode
from helion_compile.reports.model import GraphReport
from helion_compile.verify import Compared, merge_worst
from tests.support import planted
from tests.support.corpus.quantisers import torchao_row

X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.fixture(autouse=True)
def no_cache():
    """A graph from a cache of an earlier run would not be traced."""
    with torch._inductor.config.patch(fx_graph_cache=False):
        yield


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


def test_the_page_tells_how_often_a_region_is_called():
    page = helion_compile.explain(nested, X).to_html()
    assert '"told":"called 2 times by graph 2, 4 runs in all"' in page and '"told":"called 2 times by graph 3"' in page


@pytest.mark.parametrize("program", [thrice, nested])
def test_sites_in_a_region_are_verified(program):
    report = helion_compile.explain(program, X, verify=True)
    (site,) = report.sites
    assert sorted(compared.output for compared in site.verified) == ["q", "scale"]
    assert "verified" in str(report)


def test_sites_in_a_branch_are_verified():
    def branch(x):
        return torch.cond(x.sum() < 1000, lambda x: torchao_row(x), lambda x: torchao_row(x.flip(0)), (x,))

    report = helion_compile.explain(branch, X, verify=True)
    assert [bool(fused.verified) for fused in report.sites] == [True]


def test_of_all_calls_the_worst_is_told():
    steps = ((0, ""), (2, ""), (1, "no"))
    near, far, broken = (Compared("q", "fp8 e4m3", 0.0, count, 0.1, broken=text) for count, text in steps)
    scale = Compared("scale", "fp32", 0.0, 0.0, 0.0)
    assert merge_worst((near, scale), (far,)) == (far, scale)
    assert merge_worst((far,), (broken, scale)) == (broken, scale)


def test_a_broken_site_in_a_region_is_left_out(monkeypatch, caplog):
    monkeypatch.setattr(fusions, "CATALOGUE", (planted.as_catalogue("nan"),))
    compiled = torch.compile(thrice, backend="helion", options={"verify": True})
    results = compiled(X)
    assert "is not fused: verify ran" in caplog.text and not helion_compile.report(compiled).sites
    assert not any(q.float().isnan().any() for q, _ in results)


def test_a_region_that_was_dumped_before_is_compiled_as_it_is_written(tmp_path):
    with helion_compile.debug(tmp_path):
        compiled = torch.compile(thrice, backend="helion")
        results = compiled(X)
    assert [site.before.kernels > 0 for site in helion_compile.report(compiled).sites] == [True]
    torch.testing.assert_close([scale for _, scale in results], [scale for _, scale in thrice(X)], rtol=2**-7, atol=0)


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
