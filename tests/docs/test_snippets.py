# SPDX-License-Identifier: Apache-2.0
"""What a page has a reader paste: Python that runs, commands that there are, pages that are made of what they tell of."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from helion_compile.cli.main import COMMANDS, main
from helion_compile.passes.account.refusal import RefusalKind
from tests.support import ROOT, prose, support_matrix

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [page for page in prose.pages() if BLOCK.search(page.read_text())]


def blocks(page):
    return BLOCK.findall(page.read_text())


def needs_gpu(code):
    return "cuda" in code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python(page):
    for code in blocks(page):
        if code.startswith(">>> "):  # a session
            code = "\n".join(line[4:] for line in code.splitlines() if line.startswith((">>> ", "... ")))
        ast.parse(re.sub(r"^(@.*\n(?:.*\n)*\))\n*$", r"\1\ndef f(): ...\n", code.replace("…", "...")))


def test_the_quick_start_runs_as_it_stands(tmp_path):
    """In a folder without the repository, and with nothing put in its place."""
    on_a_laptop, on_a_gpu = blocks(ROOT / "README.md")
    assert needs_gpu(on_a_gpu) and not needs_gpu(on_a_laptop)
    assert max(len(code.strip().splitlines()) for code in (on_a_laptop, on_a_gpu)) <= 20
    (tmp_path / "quick_start.py").write_text(on_a_laptop)
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "quick_start.py"], cwd=tmp_path, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    assert "Total: 5 norm_quant, 2 quant, 2 activation_quant, " in done.stdout
    assert "activation_quant" in (tmp_path / "report.html").read_text()


def test_snippets_for_hugging_face_run_in_order(capsys):
    names = {}
    with torch._inductor.config.patch(compile_threads=1):
        for code in blocks(ROOT / "docs" / "hugging-face.md"):
            if not needs_gpu(code):  # those run in tests/gpu/test_snippets.py
                exec(compile(code, "hugging-face.md", "exec"), names)
    whole, layers = re.findall(r"Graph 1 of (\d+)[\s\S]*?Total: (.*)", capsys.readouterr().out)
    assert whole[0] == "1" and "5 norm_quant" in whole[1]
    assert layers[0] == "1" and "2 norm_quant" in layers[1]


def test_every_kind_of_refusal_has_an_answer():
    text = (ROOT / "docs" / "faq.md").read_text().partition("## Why is this one not fused?")[2].partition("\n## ")[0]
    answers = dict(re.findall(r"^### (.*)\n\n(.+)", text, re.MULTILINE))
    assert set(answers) == {kind.value for kind in RefusalKind}


def test_the_support_page_is_that_of_the_versions():
    assert support_matrix.PAGE.read_text() == support_matrix.page(), "run python -m tests.support.support_matrix"
    (table,) = re.findall(r"## Requirements\n\n((?:\|.*\n)+)", (ROOT / "README.md").read_text())
    cpu, gpu = ({cells[0]: cells[at] for cells in _cells(table)} for at in (2, 3))
    for library, versions in (
        ("torch", support_matrix.TORCH),
        ("Helion", support_matrix.HELION),
        ("vLLM", support_matrix.VLLM),
    ):
        assert cpu[library] == ", ".join(versions)
    measured = json.loads((ROOT / "docs/measurements/vllm-h200.json").read_text())["machine"]
    assert [gpu[name] for name in ("torch", "Triton", "Helion", "vLLM")] == [
        measured[name] for name in ("torch", "triton", "helion", "vllm")
    ]
    assert set(support_matrix.TRITON) == {cpu["Triton"], gpu["Triton"]}


def _cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_every_public_name_is_in_the_api():
    import helion_compile

    listed = re.findall(r"^::: helion_compile\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(helion_compile.__all__)


def test_make_targets_are_those_of_the_makefile():
    targets = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    for page in ("README.md", "CONTRIBUTING.md", "docs/support.md", "docs/extending.md"):
        named = set(re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
        assert named and named <= targets, (page, named - targets)


SPELLED = re.compile(r"(?:^|`)(?:helion-compile|python -m helion_compile) ([a-z][^`\n|]*)", re.MULTILINE)


def _commands():
    """Each command on the pages -> the options that pages give it."""
    found = {}
    for page in prose.pages():
        for line in SPELLED.findall(page.read_text()):
            words = line.split()
            command = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), line)
            found.setdefault(command, set()).update(re.findall(r"(?<=\s)--[a-z][a-z-]*", line))
    return found


def test_commands_on_the_pages_are_there():
    found = set(_commands()) - {"bench", "configs"}
    assert len(found) > 8
    assert found <= set(COMMANDS), found - set(COMMANDS)


GIVEN = {command: options for command, options in _commands().items() if options}


@pytest.mark.parametrize("command", GIVEN)
def test_options_on_the_pages_are_there(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    assert GIVEN[command] <= set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
