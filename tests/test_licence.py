# SPDX-License-Identifier: Apache-2.0
"""Each source file names its licence in its first lines, as https://spdx.dev has it: files are copied without their folder."""

import pytest

from tests.support import ROOT

LINE = "SPDX-License-Identifier: Apache-2.0"
FOLDERS = (".ci", "docs", "examples", "helion_compile", "passes", "tests")
KINDS = {".py", ".js", ".css", ".jinja", ".sh"}
FILES = sorted(
    file
    for folder in FOLDERS
    for file in (ROOT / folder).rglob("*")
    if file.suffix in KINDS and "__pycache__" not in file.parts and "out" not in file.parts
)


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_source_names_its_licence(folder):
    files = [file for file in FILES if file.is_relative_to(ROOT / folder)]
    assert files
    unnamed = [str(file.relative_to(ROOT)) for file in files if LINE not in file.read_text().partition("\n")[0]]
    assert not unnamed, f"write '# {LINE}' as the first line of {', '.join(unnamed)}"
