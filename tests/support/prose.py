# SPDX-License-Identifier: Apache-2.0
"""The prose of a Markdown page: its sentences, without code, addresses and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ROOT", "anchors", "code", "links", "pages", "sentences", "words"]

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"``.+?``|`[^`\n]+`")
_SOURCE = re.compile(r'(?:src|srcset|href)="([^"]*)"')  # of HTML in a page
_TAG = re.compile(r"<[a-z/!][^>]*>")
_LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<target>[^)]*)\)")
_CELLS = re.compile(r"(?<!\\)\|")
_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
_END = re.compile(r"(?<=[.!?])[)\"*]*\s+|\s·\s")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|vs|etc|cf)\.")


def pages() -> list[Path]:
    """Every page for readers: the README, `docs/`, and the guides beside them."""
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").glob("**/*.md")),
        *sorted((ROOT / "examples").glob("*.md")),
    ]


def sentences(text: str, *, tables: bool = True) -> Iterator[str]:
    """Each sentence of paragraphs, list items and table cells; code in a line counts as one word."""
    for block in _blocks(_TAG.sub("", _CODE.sub("CODE", _FENCE.sub("\n", text))), tables):
        block = _LINK.sub(lambda link: link["text"], block)
        block = _ABBREVIATION.sub(lambda found: found.group().replace(".", ""), block)
        yield from (sentence.strip() for sentence in _END.split(block) if sentence.strip())


def words(sentence: str) -> list[str]:
    return [word for word in sentence.split() if any(character.isalnum() for character in word)]


def code(text: str) -> list[str]:
    """What stands between backticks in prose and tables."""
    return [found.strip("`").strip() for found in _CODE.findall(_FENCE.sub("\n", text))]


def links(text: str) -> list[str]:
    """The targets of links and images."""
    text = _FENCE.sub("\n", text)
    return [*(found["target"] for found in _LINK.finditer(text)), *_SOURCE.findall(text)]


def anchors(text: str) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("\n", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _blocks(text: str, tables: bool) -> Iterator[str]:
    paragraph: list[str] = []
    for line in [*text.splitlines(), ""]:
        starts = not line.strip() or line.startswith(("#", "|")) or _ITEM.match(line)
        if starts and paragraph:
            yield " ".join(paragraph)
            paragraph = []
        if line.startswith("|"):
            if tables and not re.fullmatch(r"[|\s:-]+", line):
                yield from (cell.strip() for cell in _CELLS.split(line) if cell.strip())
        elif line.strip() and not line.startswith("#"):
            paragraph.append(_ITEM.sub("", line).strip())
