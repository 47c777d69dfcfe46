# SPDX-License-Identifier: Apache-2.0
"""The page of kernel authors: its snippets run one after the other, and print what stands below them."""

import importlib.util
import re
import sys

from tests.support import ROOT

BLOCK = re.compile(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", re.DOTALL)


def test_snippets_print_what_the_page_says(tmp_path, monkeypatch, capsys):
    blocks = BLOCK.findall((ROOT / "docs" / "your-own-kernel.md").read_text())
    assert len(blocks) > 8 and sum(bool(printed) for _, printed in blocks) > 2
    # Helion compiles the source of functions, so they stand in a file.
    file = tmp_path / "your_own_kernel.py"
    file.write_text("".join(f"{code}\nprint('END')\n" for code, _ in blocks))
    spec = importlib.util.spec_from_file_location("your_own_kernel", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "your_own_kernel", module)
    spec.loader.exec_module(module)
    found = capsys.readouterr().out.split("END\n")[:-1]
    for (code, expected), printed in zip(blocks, found, strict=True):
        pattern = re.escape(expected).replace("…", ".*")
        assert re.fullmatch(pattern, printed), f"{code}\nprints\n{printed}"
