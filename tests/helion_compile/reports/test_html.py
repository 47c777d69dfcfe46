"""The page in a browser: what a person does with it, by mouse and by keyboard, in dark and in light.

Skipped where there is no Chromium.  `--pictures` writes the pictures of docs/inspecting.md anew.
"""

import dataclasses
import math
import re
from pathlib import Path

import fp8_models
import pytest
import torch

from helion_compile import explain
from helion_compile.passes.ir.source_location import Location
from helion_compile.reports import Report
from helion_compile.verify import Compared
from tests.support import ROOT
from tests.support.chromium import CHROMIUM, open_page
from tests.support.corpus.quantisers import torchao_row

DOCS = ROOT / "docs" / "inspecting"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


class WithAScore(torch.nn.Module):
    """A model, and behind it a quantiser that is refused."""

    def __init__(self):
        super().__init__()
        self.model = fp8_models.quantize_fp8_per_row(fp8_models.qwen3())

    def forward(self, ids):
        logits = self.model(ids).logits
        q, _ = torchao_row(logits)
        return q, torch.topk(q.float(), 4)


@pytest.fixture(scope="module")
def report():
    model = WithAScore()
    return explain(model, fp8_models.token_ids(model.model, 2, 16), verify=True)


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    file = tmp_path_factory.mktemp("page") / "report.html"
    report.to_html(file)
    with open_page() as page:
        page.size(1280, 900)
        page.file = file
        yield page


@pytest.fixture(autouse=True)
def opened(request):
    if "page" in request.fixturenames:
        page = request.getfixturevalue("page")
        page.prefer("light")
        page.open(page.file)
        yield
        assert page.errors == []
    else:
        yield


def rows(page):
    return page.run("[...document.querySelectorAll('tr.row')].map(row => row.innerText.replace(/\\s+/g, ' '))")


def background(page, selector="body"):
    return page.run(f"getComputedStyle(document.querySelector('{selector}')).backgroundColor")


def in_view(page, side):
    """The lines of a graph that are in its pane's view and chosen."""
    return page.run(f"""(() => {{
        const pane = document.getElementById('{side}'), box = pane.getBoundingClientRect();
        return [...pane.querySelectorAll('.chosen')].filter(line => {{
            const place = line.getBoundingClientRect();
            return place.top >= box.top - 1 && place.bottom <= box.bottom + 1;
        }}).map(line => [line.querySelector('.name').textContent.slice(0, -2), getComputedStyle(line).backgroundColor]);
    }})()""")


@needs_chromium
class TestPage:
    def test_all_is_there_and_nothing_is_fetched(self, page, report):
        found = rows(page)
        assert len(found) == len(report.sites) + len(report.refusals) + len(report.unfused) + len(report.kept)
        counts = [len(each) for each in (report.sites, report.refusals, report.unfused, report.kept)]
        summary = "{} fused, {} refused, {} unfused, {} kept;".format(*counts)
        assert page.run("document.getElementById('summary').textContent").startswith(summary)
        assert {url for url in page.requests if not url.startswith("file:")} == set()
        assert page.run("fetch('https://example.invalid/').then(() => 'fetched', () => 'blocked')") == "blocked"

    def test_filter(self, page):
        total = len(rows(page))
        page.press("/")
        page.type("layers.1 gate")
        found = rows(page)
        assert found and all("layers.1" in row and "gate" in row for row in found)
        assert page.run("document.getElementById('count').textContent") == f"{len(found)} of {total}"
        page.press("Escape")
        page.run(
            "(() => { const kind = document.getElementById('kind'); kind.value = 'refused'; "
            "document.getElementById('filter').value = ''; kind.dispatchEvent(new Event('change')); })()"
        )
        refused = rows(page)
        assert all("refused: " in row for row in refused)
        assert any("refused: quant" in row and "also read by" in row for row in refused)

    def test_sort(self, page):
        def saved():
            cells = "[...document.querySelectorAll('tr.row')].map(row => row.children[5].innerText)"
            return page.run(f"{cells}.filter(Boolean).map(Number)")

        click = "document.querySelectorAll('th button')[5].click()"
        page.run(click)
        assert saved() == sorted(saved(), reverse=True) and len(set(saved())) > 1
        assert page.run("document.querySelectorAll('th')[5].getAttribute('aria-sort')") == "descending"
        page.run(click)
        assert saved() == sorted(saved())

    def test_expand_a_site(self, page, report):
        page.run("document.querySelector('tr.row').click()")
        details = page.run("document.querySelector('tr.details').innerText")
        first = report.sites[0]
        for shown in (
            *map(str, first.site.ops),
            first.kernel,
            "bf16[2, 16, 256]",
            "3 copies that the model computes become one",
        ):
            assert shown in details
        assert "as written 35 kernels" in details and re.search(r"verified q\s+[\d.]+ % differ, by up to 1 steps", details)
        page.run("document.querySelector('tr.row').click()")
        assert page.run("document.querySelector('tr.details')") is None

    def test_jump_from_a_site_to_its_place_in_both_graphs(self, page, report):
        colours = set()
        for number in (0, len(report.sites) - 1):
            page.run(f"document.querySelectorAll('tr.row')[{number}].click()")
            page.run("document.querySelectorAll('.jump')[document.querySelectorAll('.jump').length - 1].click()")
            site = report.sites[number].site
            before, after = in_view(page, "before"), in_view(page, "after")
            assert before and {name for name, _ in before} <= set(site.replaced) and before[0][0] == site.replaced[0]
            assert {name for name, _ in after} <= set(site.nodes) and site.node in {name for name, _ in after}
            (colour,) = {colour for _, colour in (*before, *after)}
            colours.add(colour)
        assert len(colours) == 2

    def test_jump_from_what_was_not_fused_to_its_node(self, page, report):
        page.run("[...document.querySelectorAll('tr.row')].find(row => row.innerText.includes('refused: quant')).click()")
        page.press("g")
        node = next(refusal.node for refusal in report.refusals if refusal.candidate == "quant")
        assert [name for name, _ in in_view(page, "before")] == [name for name, _ in in_view(page, "after")] == [node]

    def test_from_the_graph_back_to_the_row(self, page):
        page.press("n")
        page.run("document.querySelector('#after .chosen').click()")
        assert page.run("document.querySelector('tr.current + tr.details') !== null")
        assert "norm_quant" in page.run("document.querySelector('tr.current').innerText")

    def test_a_layer(self, page):
        page.run("[...document.querySelectorAll('.layer')].find(each => each.innerText.includes('layers.1')).click()")
        assert all("layers.1" in row for row in rows(page))
        bars = "[...document.querySelectorAll('.layer:nth-child(2) .bar')]"
        widths = page.run(f"{bars}.map(bar => bar.getBoundingClientRect().width)")
        assert widths[0] > widths[1] > 0 and widths[2] > widths[3] > 0

    def test_by_keyboard_alone(self, page, report):
        _, second, third, *_ = (f"{fused.site.fusion} in {fused.site.location.module}" for fused in report.sites)
        for key in ("j", "j", "Enter"):
            page.press(key)
        assert page.run("document.querySelectorAll('tr.row .open')[1].getAttribute('aria-expanded')") == "true"
        page.press("g")
        assert [name for name, _ in in_view(page, "after")][:1] != []
        place = "document.getElementById('place').textContent"
        assert page.run(place) == second
        page.press("n")
        assert page.run(place) == third
        page.press("p")
        page.press("k")
        assert page.run("document.querySelector('tr.current').dataset.order") == "0"
        focusable = page.run("document.querySelectorAll('a[href], button, input, select, [tabindex=\"0\"]').length")
        assert focusable > 40

    def test_dark_and_light(self, page):
        light = background(page)
        page.prefer("dark")
        dark = background(page)
        assert light == "rgb(255, 255, 255)" and dark == "rgb(20, 23, 26)"
        page.press("n")
        dark_site = background(page, "#after .chosen")
        page.press("t")  # light, whatever the system prefers
        assert background(page) == light and background(page, "#after .chosen") != dark_site
        page.press("t")
        assert background(page) == dark

    def test_pictures(self, page, request):
        """Each is small, and has more than one colour; with --pictures those of the documentation are written."""
        folder = DOCS if request.config.getoption("--pictures") else Path(page.file).parent
        folder.mkdir(exist_ok=True)
        request.addfinalizer(lambda: page.size(1280, 900))
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            page.size(1040, 680)
            page.open(page.file)
            page.screenshot(folder / f"report-{scheme}.png")
            page.size(1000, 370)
            page.press("j")
            page.press("Enter")
            page.press("g")
            page.run("document.getElementById('graphs-title').scrollIntoView()")
            page.screenshot(folder / f"graphs-{scheme}.png")
        sizes = {file.name: file.stat().st_size for file in folder.glob("*.png")}
        assert len(sizes) == 4 and all(20_000 < size < 150_000 for size in sizes.values()), sizes


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
        assert page.run("document.querySelectorAll('.layer').length") == 65
        items = [fused.site for fused in report.sites] + report.unfused + report.kept
        layered = sum("layers.1" in item.location.module for item in items)
        assert len(rows(page)) == len(items) - layered + 63 * layered + len(report.refusals) and layered > 10
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
    assert re.search(r'<p class="cause">No quantisation was found, and the products are 1 x aten.addmm.default of fp32', page)
    found = re.findall(r'<p class="note candidate">(.*?)</p>', page)
    assert [line.partition(":")[0] for line in found] == ["norm-like", "quantize-like", "matmul-like"]
    assert found[1].endswith("none") and "1 x aten.addmm.default of fp32, first at " in found[2]


def test_the_folder_of_the_file_is_made(report, tmp_path):
    file = tmp_path / "of" / "mine" / "report.html"
    assert report.to_html(file) == file.read_text(encoding="utf-8")


def test_it_needs_nothing_else(report):
    page = report.to_html()
    assert "note candidate" not in page
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|https?://", page)
