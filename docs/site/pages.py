# SPDX-License-Identifier: Apache-2.0
"""A hook of mkdocs: pages that lie outside of ``docs/``, and links between all of them.

In the repository a page links to files, by paths that GitHub and editors follow.  Here each such link leads to the page that
the file has on the site: the README is its first one, and a source file that a page links to has a page with its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[2]
# A file of the repository -> its page on the site.  Others in docs/ keep their names.
OUTSIDE = {
    "README.md": "index.md",
    "docs/index.md": "pages.md",
    "examples/README.md": "examples.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changes.md",
}
_PAGES = {page: file for file, page in OUTSIDE.items()}
_FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_SOURCE = re.compile(r'(?<=src=")([^"]+)(?=")|(?<=srcset=")([^"]+)(?=")')
_LANGUAGES = {".py": "python", ".json": "json"}


def on_config(config: Any) -> Any:
    config.mdx_configs["toc"]["slugify"] = name_heading
    return config


def name_heading(heading: str, separator: str) -> str:
    """The anchor of a heading, as GitHub names it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_files(files: Files, config: Any) -> Files:
    """All pages, those outside of ``docs/`` and those of linked sources among them."""
    files.remove(files.get_file_from_path("index.md"))
    for file, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text(encoding="utf-8")))
    for page in [each for each in files if each.is_documentation_page()]:
        for link in _LINK.findall(_FENCE.sub("", page.content_string)):
            file = find_file(link, page.src_uri)
            if file is None or file.startswith("docs/") or file in OUTSIDE:
                continue
            if files.get_file_from_path(page_of(file)) is None:
                files.append(File.generated(config, page_of(file), content=show_source(file)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The page with its links changed from files of the repository to pages of the site."""
    own = page.file.src_uri

    def link(found: re.Match[str]) -> str:
        file = find_file(found.group(), own)
        if file is None:
            return found.group()
        anchor = found.group().partition("#")[2]
        there = posixpath.relpath(page_of(file), posixpath.dirname(own))
        return f"{there}#{anchor}" if anchor else there

    def picture(found: re.Match[str]) -> str:  # mkdocs leaves HTML alone
        file = find_file(found.group(), own)
        return found.group() if file is None else get_relative_url(page_of(file), page.file.url)

    parts = _FENCE.split(markdown)
    parts[::2] = [_SOURCE.sub(picture, _LINK.sub(link, part)) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Docstrings name classes as Sphinx does; here the name alone stands."""
    return re.sub(r":(?:attr|class|func|meth|mod):(?=<code>)", "", html)


def find_file(link: str, page: str) -> str | None:
    """The file of the repository that a link on a page leads to; None for other pages and places on the page itself."""
    target = link.partition("#")[0]
    if not target or "://" in target or page.startswith("source/"):
        return None
    own = _PAGES.get(page, f"docs/{page}")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(own), target))
    return file if (ROOT / file).is_file() else None


def page_of(file: str) -> str:
    """The page of a file of the repository."""
    return OUTSIDE.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else f"source/{file}.md")


def show_source(file: str) -> str:
    text = (ROOT / file).read_text(encoding="utf-8")
    return f"# {file}\n\n````{_LANGUAGES.get(Path(file).suffix, '')}\n{text}\n````\n"
