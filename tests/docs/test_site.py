# SPDX-License-Identifier: Apache-2.0
"""The site is built, with no link that leads nowhere, and has every page."""

import os
import re
import subprocess
import sys

import pytest

from tests.support import ROOT

pytest.importorskip("mkdocs")
yaml = pytest.importorskip("yaml")
pytest.importorskip("mkdocstrings")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_readme_is_the_first_page_with_its_pictures_and_links(site):
    page = (site / "index.html").read_text()
    shown = re.findall(r'(?:src|srcset)="([^"]*\.(?:svg|png))"', page)
    assert {name.rpartition("/")[2] for name in shown} >= {"headline-light.svg", "headline-dark.svg", "report-light.png"}
    linked = [link for link in re.findall(r'href="([^"#]*)', page) if link and "://" not in link]
    assert "hugging-face/" in linked and "source/examples/your_own_kernel.py/" in linked
    missing = [link for link in {*shown, *linked} if not (site / link).exists()]
    assert not missing


def test_pictures_of_a_page_in_a_folder_of_its_own(site):
    shown = re.findall(r'<img[^>]*src="([^"]*)"', (site / "inspecting" / "index.html").read_text())
    assert shown and all((site / "inspecting" / name).exists() for name in shown)


def test_the_api_has_signatures_and_descriptions(site):
    page = (site / "api" / "index.html").read_text()
    assert "helion_compile.explain" in page and "run each fused site against what it replaces" in page
    assert not re.search(r":(class|func|meth):", page)


def test_every_page_can_be_reached(site):
    in_order = set(_pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert pages <= in_order, pages - in_order


def _pages_of(nav):
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else _pages_of(value)
