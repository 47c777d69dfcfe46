# SPDX-License-Identifier: Apache-2.0
"""The pages for readers: short sentences, the words of the glossary, and nothing named that is not there."""

import importlib
import re

import pytest

from tests.support import prose

LONGEST = 25  # words of a sentence
GLOSSARY = prose.ROOT / "docs" / "glossary.md"
GENERATED = prose.ROOT / "docs" / "patterns.md"
PAGES = pytest.mark.parametrize("page", prose.pages(), ids=lambda page: str(page.relative_to(prose.ROOT)))

# A path in the repository, from its root; `*` stands for any name.
PATH = re.compile(r"(?:\.ci|constraints|docs|examples|helion_compile|passes|tests)/[\w./*{}-]*")
ANY = re.compile(r"NAME|VERSION")  # what a reader puts a name of his own for
MADE_BY_DEBUG = {"after.py", "before.py"}  # the names of files that `helion_compile.debug` writes


def retired_words() -> dict[str, str]:
    """What not to write -> what to write, from the glossary's last table."""
    rows = GLOSSARY.read_text().partition("| not | but |\n|---|---|\n")[2].splitlines()
    pairs = [row.strip("| ").split(" | ") for row in rows if row.startswith("|")]
    return {word.strip('" '): use for not_these, use in pairs for word in not_these.split(",")}


@PAGES
def test_sentences_are_short(page):
    found = prose.sentences(page.read_text(), tables=page != GENERATED)
    long = [f"{len(prose.words(sentence))}: {sentence}" for sentence in found if len(prose.words(sentence)) > LONGEST]
    assert not long, "\n".join(long)


@PAGES
def test_words_are_those_of_the_glossary(page):
    text = page.read_text()
    if page == GLOSSARY:
        text = text.partition("\n## Words that we no longer use")[0]
    retired = retired_words()
    assert len(retired) > 20
    used = [
        f"{word!r} (write {use}): {sentence}"
        for sentence in prose.sentences(text)
        for word, use in retired.items()
        if re.search(rf"(?<!programmatic )\b{re.escape(word)}s?\b", sentence, re.IGNORECASE)
    ]
    assert not used, "\n".join(used)


@PAGES
def test_links_lead_somewhere(page):
    text = page.read_text()
    broken = []
    for link in prose.links(text):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in prose.anchors(file.read_text())):
            broken.append(link)
    assert not broken, broken


@PAGES
def test_paths_exist(page):
    missing = []
    for code in prose.code(page.read_text()):
        for path in PATH.findall(code):
            if not any(prose.ROOT.glob(ANY.sub("*", path).rstrip("/."))):
                missing.append(path)
        if re.fullmatch(r"\w+\.py", code) and code not in MADE_BY_DEBUG and not (page.parent / code).exists():
            missing.append(f"{code}: write the whole path")
    assert not missing, missing


@PAGES
def test_names_of_the_package_exist(page):
    if page.name == "CHANGELOG.md":  # which names what is gone
        return
    missing = []
    for code in prose.code(page.read_text()):
        for name in re.findall(r"(?<![\w/.])helion_compile(?:\.[A-Za-z_]\w*)+", code):
            if not name.startswith("helion_compile.vllm") and not exists(name):  # parts of it need vLLM
                missing.append(name)
    assert not missing, missing


def exists(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
        return True
    except ModuleNotFoundError:
        pass
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        owner, _, between = module.rpartition(".")
        return hasattr(getattr(importlib.import_module(owner), between, None), attribute)


@pytest.mark.parametrize("name", ["glossary.md", "design.md", "extending.md"])
def test_names_are_those_of_the_code(name):
    """Each name of a function, class or argument on the pages about the code is one in the sources."""
    text = (prose.ROOT / "docs" / name).read_text().partition("\n## Words that we no longer use")[0]
    sources = "\n".join(
        file.read_text() for folder in ("helion_compile", "passes", "tests") for file in (prose.ROOT / folder).rglob("*.py")
    )
    named = {found for code in prose.code(text) if (found := re.match(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(?=$|\(|=)", code))}
    parts = {part for found in named for part in found.group().split(".")} - {"NAME", "VERSION"}
    missing = sorted(part for part in parts if not re.search(rf"\b{part}\b", sources))
    assert not missing, missing


def test_index_lists_every_page():
    index = prose.ROOT / "docs" / "index.md"
    listed = {link.partition("#")[0] for link in prose.links(index.read_text())}
    assert {page.name for page in (prose.ROOT / "docs").glob("*.md")} - {"index.md"} <= listed
