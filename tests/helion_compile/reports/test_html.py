# SPDX-License-Identifier: Apache-2.0
"""The page in a browser: what a person does with it, by mouse and by keyboard, in dark and in light.

Skipped where there is no Chromium.  `--pictures` writes the pictures of docs/inspecting.md anew.
"""

import re
from pathlib import Path

import pytest

from helion_compile.reports.grouping import group_fused, group_kept, group_refusals, group_unfused
from tests.support import ROOT
from tests.support.chromium import CHROMIUM, open_page

DOCS = ROOT / "docs" / "inspecting"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


# What does not fit into its place, but for the lines of a graph; what is not shown has no place.
CUT = """[...document.querySelectorAll('body *')].filter(each => !each.closest('.pane, dialog, .skip') && each.clientWidth
    && each.scrollWidth > each.clientWidth + 1 && each.tagName !== 'INPUT').map(each => each.outerHTML.slice(0, 200))"""
# Texts that stand out too little from the background behind them.
FAINT = """(() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (each) => {
        for (; each; each = each.parentElement) {
            const colour = parse(getComputedStyle(each).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll('body *')].filter(each => each.clientHeight + each.offsetHeight > 0
        && [...each.childNodes].some(child => child.nodeType === 3 && child.data.trim())).map(each => {
            const [x, y] = [light(parse(getComputedStyle(each).color)), light(behind(each))];
            return [(Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05), each.outerHTML.slice(0, 120)];
        }).filter(([ratio]) => ratio < 4.5);
})()"""


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
        (graph,) = report.graphs
        groups = [group(graph) for group in (group_fused, group_refusals, group_unfused, group_kept)]
        assert (
            len(found) == sum(map(len, groups)) < sum(map(len, (report.sites, report.refusals, report.unfused, report.kept)))
        )
        counts = [len(each) for each in (report.sites, report.refusals, report.unfused, report.kept)]
        summary = "{} fused, {} refused, {} unfused, {} kept".format(*counts)
        assert page.run("document.getElementById('summary').textContent") == summary
        assert {url for url in page.requests if not url.startswith("file:")} == set()
        assert page.run("fetch('https://example.invalid/').then(() => 'fetched', () => 'blocked')") == "blocked"

    def test_filter(self, page):
        total = len(rows(page))
        page.press("/")
        page.type("layers.1.mlp gate")
        found = rows(page)
        assert any("model.layers.0-1.mlp.gate_proj (2 times)" in row for row in found) and len(found) < total
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
            cells = "[...document.querySelectorAll('tr.row')].map(row => row.children[4].innerText)"
            return page.run(f"{cells}.filter(Boolean).map(Number)")

        click = "document.querySelectorAll('th button')[4].click()"
        page.run(click)
        assert saved() == sorted(saved(), reverse=True) and len(set(saved())) > 1
        assert page.run("document.querySelectorAll('th')[4].getAttribute('aria-sort')") == "descending"
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
        groups = group_fused(report.graphs[0])
        for number in (0, len(groups) - 1):
            page.run(f"document.querySelectorAll('tr.row')[{number}].click()")
            page.run("document.querySelectorAll('.jump')[document.querySelectorAll('.jump').length - 1].click()")
            site = groups[number][0].site
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
        assert all(re.search(r"layers\.(0-)?1\b|13 more places", row) for row in rows(page))
        bars = "[...document.querySelectorAll('.layer:nth-child(2) .bar')]"
        widths = page.run(f"{bars}.map(bar => bar.getBoundingClientRect().width)")
        assert widths[0] > widths[1] > 0 and widths[2] > widths[3] > 0

    def test_by_keyboard_alone(self, page, report):
        sites = [fused.site for fused in report.sites]
        second = group_fused(report.graphs[0])[1][0].site
        third = sites[sites.index(second) + 1]
        for key in ("j", "j", "Enter"):
            page.press(key)
        assert page.run("document.querySelectorAll('tr.row .open')[1].getAttribute('aria-expanded')") == "true"
        page.press("g")
        assert [name for name, _ in in_view(page, "after")][:1] != []
        place = "document.getElementById('place').textContent"
        assert page.run(place) == f"{second.fusion} in {second.location.module}"
        page.press("n")
        assert page.run(place) == f"{third.fusion} in {third.location.module}"
        page.press("p")
        page.press("k")
        assert page.run("document.querySelector('tr.current').dataset.order") == "0"
        focusable = page.run("document.querySelectorAll('a[href], button, input, select, [tabindex=\"0\"]').length")
        assert focusable > 30

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

    @pytest.mark.parametrize("width", [1280, 800, 640, 400])  # 640: 1280 at 200 % zoom
    def test_nothing_is_cut(self, page, request, width):
        """No row, reason or layer is wider than its place, opened or not; a graph's lines scroll."""
        request.addfinalizer(lambda: page.size(1280, 900))
        page.size(width, 900)
        page.open(page.file)
        page.run("document.querySelectorAll('tr.row').forEach(row => row.click())")
        assert page.run("document.scrollingElement.scrollWidth") <= width
        assert page.run(CUT) == []

    def test_nothing_is_cut_in_print(self, page, request):
        request.addfinalizer(lambda: (page.size(1280, 900), page.prefer("light")))
        page.print_media()
        page.size(718, 1000)  # A4 with its margins
        page.run("document.querySelectorAll('tr.row').forEach(row => row.click())")
        assert page.run("document.scrollingElement.scrollWidth") <= 718 and page.run(CUT) == []
        assert page.run("getComputedStyle(document.getElementById('graphs')).display") == "none"

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_all_text_can_be_read(self, page, scheme):
        """Each has 4.5 times the luminance of what it stands on, or the other way round."""
        page.prefer(scheme)
        page.run("document.querySelectorAll('tr.row').forEach(row => row.click())")
        page.press("n")
        assert page.run(FAINT) == []

    def test_what_is_fused_looks_like_no_error(self, page, report):
        """No colour of a site is red, orange or pink."""
        hues = "[...document.querySelectorAll('.swatch')].map(each => Number(each.style.getPropertyValue('--h')))"
        assert all(90 <= hue <= 280 for hue in page.run(hues))

    def test_a_link_to_a_row(self, page, report):
        page.run("document.querySelector('tr.row:nth-child(3)').click()")
        link = page.run("document.querySelector('tr.details a').getAttribute('href')")
        assert re.fullmatch(r"#fused-\w+-model\.model\.layers\.0\.[\w.]+", link)
        page.open(page.file)
        page.run(f"location.hash = '{link}'")
        page.run("new Promise(done => setTimeout(done, 50))")
        assert page.run("document.querySelector('tr.current + tr.details') !== null")
        assert page.run("document.querySelector('tr.current').id") == link[1:]

    def test_the_story_stands_first(self, page, report):
        told = page.run("document.getElementById('headline').innerText")
        assert all(line in told for _, line in report.headline.lines)
        assert page.run("document.title") == "WithAScore: helion-compile report"
        assert "WithAScore on cpu; torch " in page.run("document.getElementById('identity').textContent")

    def test_a_question_mark_shows_the_keys(self, page):
        page.press("?")
        assert page.run("document.getElementById('keys').open")
        page.press("j")  # belongs to the page below
        assert page.run("document.querySelector('tr.current')") is None
        page.press("Escape")
        assert not page.run("document.getElementById('keys').open")

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
