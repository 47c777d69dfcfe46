# SPDX-License-Identifier: Apache-2.0
"""Reports of graphs that come from Inductor's cache: what was told of them when they were compiled is told again."""

import dataclasses
import json
import logging
import math

import pytest
import torch
from torch._inductor.utils import fresh_cache

import helion_compile
from helion_compile import explain, report
from helion_compile.frontend.inductor import HOOK
from helion_compile.frontend.options import Options
from helion_compile.reports import stored
from helion_compile.verify import Compared
from tests.support.report_schema import SCHEMA, problems

X = torch.randn(8, 64).bfloat16()


def quantize(x):
    scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
    return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


def product(x):
    return x @ x.t()


@pytest.fixture(autouse=True)
def empty_cache():
    with fresh_cache(), torch._inductor.config.patch(fx_graph_cache=True), torch.no_grad():
        yield


def compiled_anew(function, *args, **options):
    """The report of a function that is compiled with no memory but Inductor's cache."""
    torch.compiler.reset()
    compiled = torch.compile(function, backend="helion", **options)
    compiled(*args)
    (graph,) = report(compiled).graphs
    return graph


def files():
    return sorted(stored._folder().glob("*"))


def as_compiled(graph):
    return dataclasses.replace(graph, cached=False)


def without_time(graph):
    return dataclasses.replace(graph, record=dataclasses.replace(graph.record, seconds=0.0))


@pytest.mark.parametrize("dynamic", [False, True])
def test_what_was_told_is_told_again(dynamic, caplog):
    torch._dynamo.mark_static(X, 1)
    first = compiled_anew(quantize, X, dynamic=dynamic)
    with caplog.at_level(logging.INFO, "helion_compile"):
        again = compiled_anew(quantize, X, dynamic=dynamic)
    assert again.cached and not first.cached and as_compiled(again) == first
    assert len(again.fused) == 1 and again.after == first.after and again.layers == first.layers
    assert "from Inductor's cache: 1 x quant (" in caplog.text
    whole = helion_compile.Report((again,))
    assert "nodes, from Inductor's cache, told as when it was compiled" in str(whole)
    assert list(problems(json.loads(whole.to_json()), SCHEMA)) == []
    assert whole.to_html().startswith("<!doctype html>")


def test_code_that_an_earlier_version_left_is_not_served_without_its_report(monkeypatch):
    compiled_anew(quantize, X)
    monkeypatch.setattr("helion_compile.frontend.options.digest_packages", lambda: "of another version")
    graph = compiled_anew(quantize, X)
    assert not graph.cached and len(graph.fused) == 1


def test_why_nothing_was_fused_is_told_again():
    first = compiled_anew(product, X)
    again = compiled_anew(product, X)
    assert again.cached and as_compiled(again) == first and not again.unread
    assert "the products are 1 x aten.mm.default of bf16" in " ".join(str(helion_compile.Report((again,))).split())


def test_artifacts_for_tlparse(monkeypatch):
    compiled_anew(quantize, X)
    found = {}

    def trace_structured(name, metadata_fn=dict, *, payload_fn=lambda: None, **_):
        if name == "artifact" and metadata_fn()["name"].startswith("helion_"):
            found[metadata_fn()["name"]] = payload_fn()

    monkeypatch.setattr(torch._logging, "trace_structured", trace_structured)
    compiled_anew(quantize, X)
    assert json.loads(found["helion_report"])["graphs"][0]["cached"]
    assert "helion_kernel" in found["helion_graph_after"] and "helion_kernel" not in found["helion_graph_before"]


def test_verify_checks_a_graph_from_the_cache_too():
    options = {"verify": True}
    compiled_anew(quantize, X, options=options)
    again = compiled_anew(quantize, X * 3, options=options)
    assert again.cached and [compared.output for compared in again.fused[0].verified] == ["q", "scale"]


def test_a_report_that_cannot_be_touched_is_told_and_stays(monkeypatch):
    def utime(file):
        raise PermissionError(1, "Operation not permitted")

    compiled_anew(quantize, X)
    kept = files()
    monkeypatch.setattr(stored.os, "utime", utime)
    assert len(stored.load_reports(kept[0].name.removesuffix(".json.gz"))) == 1 and files() == kept


def first_and_anew(function, *args, **options):
    """The report of a graph that is compiled, and that of the same graph out of the cache without its report."""
    first = compiled_anew(function, *args, **options)
    for file in files():
        file.unlink()
    return first, compiled_anew(function, *args, **options)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_graph_whose_report_is_gone_is_read_once_it_is_asked_for(dynamic, caplog):
    torch._dynamo.mark_static(X, 1)
    with caplog.at_level(logging.INFO, "helion_compile"):
        first, anew = first_and_anew(quantize, X, dynamic=dynamic)
    assert "not read again: the compiled graph comes from Inductor's cache" in caplog.text
    assert anew.cached and without_time(as_compiled(anew)) == without_time(first) and len(anew.fused) == 1


def test_an_edited_line_above_leaves_the_report_right():
    """The code is served from the cache, since the graph is the same; the lines are those of today."""
    first, again = compiled_anew(quantize, X), compiled_anew(same_on_another_line, X)
    (then,), (now,) = ([fused.site.location.line for fused in graph.fused] for graph in (first, again))
    assert again.cached and not first.cached
    for function, line in ((quantize, then), (same_on_another_line, now)):
        assert line == function.__code__.co_firstlineno + 2


def test_it_is_read_as_it_was_compiled():
    """Without grad, and with the options of the call."""
    norm = torch.nn.RMSNorm(64).bfloat16()  # its weight asks for grad
    first, _ = first_and_anew(lambda x: quantize(norm(x)), X, options={"numerics": "exact"})
    torch.compiler.reset()
    compiled = torch.compile(lambda x: quantize(norm(x)), backend="helion", options={"numerics": "exact"})
    compiled(X)
    with torch.enable_grad():
        (anew,) = report(compiled).graphs
    assert len(anew.fused) == 1 and not anew.training
    assert [fused.kernel for fused in anew.fused] == [fused.kernel for fused in first.fused]
    assert report(compiled).graphs[0] is anew  # read once


def test_what_was_verified_is_told_of_a_graph_that_is_read_anew():
    _, anew = first_and_anew(quantize, X, options={"verify": True})
    assert anew.cached and [compared.output for compared in anew.fused[0].verified] == ["q", "scale"]


def test_where_it_cannot_be_read(monkeypatch, caplog):
    def reader(*args, **what):
        def read():
            raise RuntimeError("no")

        return read

    for name, replacement in (("cannot be read", reader), ("cannot be copied", lambda *args, **what: None)):
        monkeypatch.setattr("helion_compile.frontend.compile_graph.make_reader", replacement)
        _, anew = first_and_anew(quantize, X)
        assert anew.cached and anew.unread and not anew.fused, name
        text = " ".join(str(helion_compile.Report((anew,))).split())
        assert "Graph 1 of 1: from Inductor's cache, not read again" in text and "explain() reads it" in text
    assert "from Inductor's cache, failed: RuntimeError: no" in caplog.text


def test_a_disk_that_takes_nothing(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(stored, "_folder", lambda: file / "helion_reports")
    assert len(compiled_anew(quantize, X).fused) == 1


def test_nothing_is_written_without_inductors_cache():
    with torch._inductor.config.patch(fx_graph_cache=False):
        compiled_anew(quantize, X)
    with torch._inductor.config.patch(force_disable_caches=True):
        compiled_anew(quantize, X)
    assert files() == []


def test_the_ones_used_last_are_kept(monkeypatch):
    monkeypatch.setattr(stored, "LIMIT", 3)
    graph = compiled_anew(quantize, X)
    a, b, c, d = (letter * 64 for letter in "abcd")
    for key in (a, b, c):
        stored.keep_reports(key, [graph])
    assert stored.load_reports(a) == [graph]
    stored.keep_reports(d, [graph])
    assert len(files()) == 3 and stored.load_reports(a) and stored.load_reports(d) and not stored.load_reports(b)


def test_everything_in_a_report_comes_back():
    (graph,) = explain(lambda x: (quantize(x), x.rsqrt(), product(x)), X, verify=True).graphs
    compared = Compared("q", "fp8 e4m3", math.inf, math.inf, 0.1, None, 30.0, "1 numbers are NaN")
    fused = dataclasses.replace(graph.fused[0], verified=(*graph.fused[0].verified, compared))
    graph = dataclasses.replace(graph, fused=(fused,), record=dataclasses.replace(graph.record, originals={}))
    stored.keep_reports("f" * 64, [graph, graph])
    assert stored.load_reports("f" * 64) == [graph, graph]


def same_on_another_line(x):
    scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
    return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


class Inner(torch.nn.Module):
    def forward(self, x):
        return quantize(x)


class Outer(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        self.add_module(name, Inner())

    def forward(self, x):
        return getattr(self, self.name)(x)


class Constant(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x + torch.tensor(self.value)


def make_key(function, x, *, numerics="default", dynamic=None, **config):
    found = []

    def backend(module, inputs):
        hook = {HOOK: Options(numerics=numerics).fusion_pass()}
        found.append(stored.make_key(module, inputs, {**config, **hook}))
        return module

    torch.compiler.reset()
    torch.compile(function, backend=backend, dynamic=dynamic)(x)
    (key,) = found
    return key


def test_keys():
    """A report is told of an equal graph, and of no other one."""
    assert make_key(quantize, X) == make_key(quantize, X + 1)
    keys = [
        make_key(quantize, X),
        make_key(same_on_another_line, X),
        make_key(Outer("one"), X),
        make_key(Outer("two"), X),
        make_key(Constant(1.0), X),
        make_key(Constant(2.0), X),
        make_key(quantize, X[:4]),
        make_key(quantize, X.float()),
        make_key(quantize, X.t().contiguous().t()),
        make_key(quantize, X, numerics="exact"),
        make_key(quantize, X, epilogue_fusion=False),
        make_key(quantize, X, dynamic=True),
        make_key(quantize, X[:4], dynamic=True),  # graph and guards are the same, the size that was traced is not
    ]
    with torch._inductor.config.patch(max_autotune=True):
        keys.append(make_key(quantize, X))
    with torch._inductor.config.patch(joint_custom_pre_pass=lambda graph: None):
        keys.append(make_key(quantize, X))
    assert None not in keys and len(set(keys)) == len(keys)
