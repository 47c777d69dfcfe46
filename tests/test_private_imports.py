# SPDX-License-Identifier: Apache-2.0
"""Private names of torch, Triton, Helion and vLLM stand in ``compat`` alone, one a package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from helion_compile import compat

ROOT = Path(__file__).parents[1]
COMPAT = {ROOT / "helion_compile" / "compat.py", ROOT / "passes" / "compat.py"}
FILES = sorted({*(ROOT / "helion_compile").rglob("*.py"), *(ROOT / "passes").rglob("*.py")} - COMPAT)

LIBRARIES = ("torch", "triton", "helion", "vllm")
# What these libraries document; any other module of theirs is private.  Of torch a name says so itself.
PUBLIC = {
    "triton": {"triton", "triton.language"},
    "helion": {"helion", "helion.autotuner", "helion.language"},
    "vllm": {"vllm"},
}
# Operators have names like ``aten._scaled_mm``, and vLLM's library is called ``_C``.
OPERATORS = ("torch.ops.", "aten.", "ops.", "torch._scaled_mm")
# Of Python's own modules, and of named tuples.
PYTHON = {"_asdict", "_exit", "_fields", "_getframe", "_Hash", "_replace"}
ATTRIBUTES = {name.rpartition(".")[2] for name in compat.ATTRIBUTES}


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def is_private_module(name: str) -> bool:
    library = name.partition(".")[0]
    return is_private(name) or name not in PUBLIC.get(library, {name})


def dotted(node: ast.expr) -> str:
    """ "torch._C.DispatchKey"; "" instead of what is no name, as in "().__class__"."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def names_defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and dotted(node.value) in ("self", "cls"):
            yield node.attr


def private_names(tree: ast.Module, ours: frozenset[str] | set[str]) -> Iterator[str]:
    """What a file takes of a library that is private; ``ours``: names that the packages define."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in LIBRARIES:
            yield from (
                f"{node.lineno}: from {node.module} import {alias.name}"
                for alias in node.names
                if is_private_module(node.module) or is_private(alias.name)
            )
        elif isinstance(node, ast.Import):
            yield from (
                f"{node.lineno}: import {alias.name}"
                for alias in node.names
                if alias.name.partition(".")[0] in LIBRARIES and is_private_module(alias.name)
            )
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            name = dotted(node)
            if name.startswith(OPERATORS) or node.attr in PYTHON | ATTRIBUTES:
                continue
            if name.startswith("torch.") or node.attr not in ours:
                yield f"{node.lineno}: {name}"


@pytest.fixture(scope="module")
def ours():
    return {name for file in FILES for name in names_defined(ast.parse(file.read_text()))}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_private_names_come_from_compat(file, ours):
    assert list(private_names(ast.parse(file.read_text()), ours)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import torch._dynamo",
        "from torch._inductor import ir",
        "from torch.autograd.profiler import _is_profiler_enabled",
        "import triton.runtime",
        "from helion.runtime import get_num_sm",
        "from vllm.config import VllmConfig",
        "torch._dynamo.reset()",
        "torch.cuda._lazy_init()",
        "kernel.helion._settings",
    ],
)
def test_a_private_name_is_found(line):
    assert list(private_names(ast.parse(line), set()))


@pytest.mark.parametrize(
    "line", ["import torch.fx", "import helion.language as hl", "torch.ops.aten._to_copy", "op._schema", "self._ours", "x.y"]
)
def test_a_public_name_is_none(line):
    assert not list(private_names(ast.parse(line), {"_ours"}))


def test_every_name_of_compat_is_used():
    """One that nobody imports any more goes."""
    text = "\n".join(file.read_text() for file in FILES)
    names = {name for tree in [ast.parse(text.replace("from __future__ import annotations", ""))] for name in used(tree)}
    assert compat.NAMES.keys() - names == set()


def used(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "helion_compile.compat":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and dotted(node.value) == "compat":
            yield node.attr
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("find_name"):
            yield node.args[0].value
