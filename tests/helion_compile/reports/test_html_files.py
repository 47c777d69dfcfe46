# SPDX-License-Identifier: Apache-2.0
"""The page as a file: what is in it, what cannot end its data, and how fast a large one opens."""

import dataclasses
import math
import re

import pytest
import torch

from helion_compile import explain
from helion_compile.passes.ir.source_location import Location
from helion_compile.reports import Report
from helion_compile.verify import Compared
from tests.support.chromium import CHROMIUM, open_page

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


def rows(page):
    return page.run("[...document.querySelectorAll('tr.row')].map(row => row.innerText.replace(/\\s+/g, ' '))")


@needs_chromium
def test_what_is_broken_is_marked(report, tmp_path):
    (graph,) = report.graphs
    compared = Compared("q", "fp8 e4m3", math.inf, math.inf, 0.1, None, 30.0, "1 numbers are NaN")
    fused = dataclasses.replace(graph.fused[0], verified=(compared,))
    file = tmp_path / "broken.html"
    Report((dataclasses.replace(graph, fused=(fused,)),)).to_html(file)
    with open_page() as page:
        page.open(file)
        assert page.run("document.querySelector('td.bad').textContent") == "broken: q: 1 numbers are NaN"
        page.run("document.querySelector('tr.row').click()")
        assert "by up to Infinity steps" in page.run("document.querySelector('tr.details').innerText")
        assert page.errors == []


@needs_chromium
def test_a_report_of_64_layers_opens_in_two_seconds(report, tmp_path):
    file = tmp_path / "large.html"
    of_layers(report, 64).to_html(file)
    with open_page() as page:
        page.size(1280, 900)
        page.open(file)  # the first page of a browser pays for its start
        seconds = page.open(file)
        assert [
            text.split("\n")[0] for text in page.run("[...document.querySelectorAll('.layer')].map(each => each.innerText)")
        ] == ["outside the layers", "model.model.layers.0", "model.model.layers.1-63 (63 times)"]
        assert any("model.layers.0-63.mlp.down_proj (64 times)" in row for row in rows(page)) and len(rows(page)) < 40
        assert page.run("document.getElementById('summary').textContent").startswith(
            f"{len(of_layers(report, 64).sites)} fused"
        )
    print(f"{file.stat().st_size / 1e6:.1f} MB, {seconds:.2f} s")
    assert seconds < 2


def of_layers(report: Report, count: int) -> Report:
    """The report with its second layer `count` - 1 times."""
    (graph,) = report.graphs
    record = graph.record

    def renamed(location: Location, layer: int) -> Location:
        return dataclasses.replace(location, module=location.module.replace("layers.1", f"layers.{layer}"))

    def copied(items, rename):
        """The items, those of the second layer as often as there are layers."""
        for item in items:
            layered = "layers.1" in item.location.module
            yield from (rename(item, layer) for layer in range(1, count)) if layered else (item,)

    def site(item, layer):
        names = {name: tuple(f"{node}_{layer}" for node in getattr(item, name)) for name in ("nodes", "replaced")}
        return dataclasses.replace(item, location=renamed(item.location, layer), node=f"{item.node}_{layer}", **names)

    def line(item, layer):
        return dataclasses.replace(item, location=renamed(item.location, layer), node=f"{item.node}_{layer}")

    sites = {fused.site.node: fused for fused in graph.fused}
    fused = []
    for each in sites.values():
        layered = "layers.1" in each.site.location.module
        copies = [site(each.site, layer) for layer in range(1, count)] if layered else [each.site]
        fused += [dataclasses.replace(each, site=copy) for copy in copies]
    record = dataclasses.replace(
        record,
        sites=[each.site for each in fused],
        kept=list(copied(record.kept, site)),
        refusals=list(record.refusals),
        unfused=list(copied(record.unfused, line)),
        lines_before=tuple(copied(record.lines_before, line)),
        lines_after=tuple(copied(record.lines_after, line)),
    )
    return Report((dataclasses.replace(graph, record=record, fused=tuple(fused)),))


def test_text_of_a_model_cannot_end_the_data(report):
    """Names come from programs; one that closes the script element must not."""
    (graph,) = report.graphs
    fused = dataclasses.replace(graph.fused[0], kernel="</script><script>alert(1)</script>")
    page = Report((dataclasses.replace(graph, fused=(fused,)),)).to_html()
    assert "</script><script>alert" not in page and "\\u003c/script>" in page


def test_where_nothing_was_fused_the_page_has_the_cause_and_what_there_is():
    linear = torch.nn.Linear(8, 8).requires_grad_(False)
    page = explain(linear, torch.ones(2, 8)).to_html()
    assert re.search(r"<dd>No quantisation was found, and the products are 1 x aten.addmm.default of fp32", page)
    found = re.findall(r'<p class="note candidate">(.*?)</p>', page)
    assert [line.partition(":")[0] for line in found] == ["norm-like", "quantize-like", "matmul-like"]
    assert found[1].endswith("none") and "1 x aten.addmm.default of fp32, first at " in found[2]


def test_the_folder_of_the_file_is_made(report, tmp_path):
    file = tmp_path / "of" / "mine" / "report.html"
    assert report.to_html(file) == file.read_text(encoding="utf-8")


def test_it_needs_nothing_else(report):
    page = report.to_html()
    assert "note candidate" not in page
    assert not re.search(r"src\s*=|href\s*=\s*[\"'](?!#)|@import|url\(|https?://", page)
