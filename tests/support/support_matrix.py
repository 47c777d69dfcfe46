# SPDX-License-Identifier: Apache-2.0
"""docs/support.md: which versions were tested together, and where; made by ``python -m tests.support.support_matrix``.

From the lists of ``compat``, the pins in ``constraints``, the measurements' own account of their machine, and the tables that
ship.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from helion_compile.compat import HELION, TORCH, TRITON, VLLM
from helion_compile.configs.files import shipped_folder
from tests.support import ROOT

__all__ = ["PAGE", "page"]

PAGE = ROOT / "docs" / "support.md"
CONSTRAINTS = ROOT / "constraints"
DEFAULT = ROOT / "constraints.txt"


def page() -> str:
    """The page as it should be."""
    return _PAGE.format(
        torch=_table(("torch", "Helion", "tested with"), _torch_rows()),
        gpu=_table(("GPU", "torch", "Triton", "Helion", "vLLM", "Python", "last measured"), _gpu_rows()),
        vllm=_table(("vLLM", "operators compared with their schemas", "compiler run on a CPU", "run on a GPU"), _vllm_rows()),
        tables=_table(("kernel", "GPU"), _table_rows()),
        triton=" and ".join(TRITON),
        helion=" and ".join(HELION),
    )


def _torch_rows() -> Iterable[tuple[str, ...]]:
    files = {_pin(file, "torch"): file for file in (DEFAULT, *CONSTRAINTS.glob("torch-*.txt"))}
    for version in TORCH:
        command = "`make test`" if files[version] == DEFAULT else f"`make test TORCH={version}`"
        yield version, _pin(files[version], "helion"), f"{command}, on a CPU"


def _gpu_rows() -> Iterable[tuple[str, ...]]:
    """What the files of measurements say of where they were made, the last date of each."""
    found: dict[tuple[str, ...], str] = {}
    for file in sorted((ROOT / "docs" / "measurements").glob("*.json")):
        machine = json.loads(file.read_text())["machine"]
        vllm = machine.get("vllm", "none")
        names = (machine["gpu"], machine["torch"], machine["triton"], machine["helion"], vllm, machine.get("python", ""))
        if machine.get("date"):
            found[names] = max(found.get(names, ""), machine["date"])
    merged: dict[tuple[str, ...], str] = {}
    for names, date in found.items():  # older files do not name Python
        same = next((each for each in found if each[:5] == names[:5] and each[5]), names)
        merged[same] = max(merged.get(same, ""), date)
    for names, date in sorted(merged.items()):
        yield *names, date


def _vllm_rows() -> Iterable[tuple[str, ...]]:
    on_gpu = {row[4]: row[0] for row in _gpu_rows()}
    for version in VLLM:
        schemas = (ROOT / "tests" / "support" / "vllm" / "schemas").glob(f"*{version}*")
        runs = (CONSTRAINTS / f"vllm-{version}.txt").exists()
        yield version, _said(any(schemas)), "`make test-vllm`" if runs else "no", on_gpu.get(version, "no")


def _table_rows() -> Iterable[tuple[str, ...]]:
    for file in sorted(shipped_folder().glob("*/*.json")):
        vendor, _, name = file.stem.partition("_")
        yield f"`{file.parent.name}`", f"{vendor.upper()} {name.upper()}"


def _pin(file: Path, package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", file.read_text(), re.MULTILINE)
    assert found, f"{file} has no {package}"
    return found[1]


def _said(value: bool) -> str:
    return "yes" if value else "no"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- |", "|---|").replace(" --- |", "---|")


_PAGE = """# Support

What was tested with what. Other versions are tried, not refused ([stability](stability.md#versions-of-others)). This page is
made by `python -m tests.support.support_matrix`.

## On a CPU

{torch}

Helion is {helion}, Triton {triton}. Helion 1.5 needs torch 2.13 or newer. Python is 3.11, which torch 2.15 asks for.
[What ran](measurements.md#tests-and-demo-on-a-cpu).

## On a GPU

{gpu}

[What ran](measurements.md#tests-on-the-gpu). Other GPUs, and other versions of torch on a GPU, were not tried.

## vLLM

{vllm}

## Tables that ship

{tables}

A GPU of the same architecture takes these rows too, behind its own ([configs](configs.md)). Elsewhere a chain
waits for a table.
"""

if __name__ == "__main__":
    PAGE.write_text(page())
