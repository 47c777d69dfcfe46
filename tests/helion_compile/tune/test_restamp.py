# SPDX-License-Identifier: Apache-2.0
"""Rows get a kernel's new fingerprint where its code is proved to be equal, and only there."""

import json

import pytest

from helion_compile.definitions.declaration import Configs
from helion_compile.tune import restamp
from helion_compile.tune.same_code import find_difference

KERNEL = """
import helion.language as hl
import torch

from helion_compile import Case, kernel
from helion_compile.helion_kernel import Tuning


def _case(x):
    return Case(num_tokens=x.size(0), hidden_size=x.size(1))


def _inputs(case, device):
    return (torch.zeros(case["num_tokens"], case["hidden_size"], device=device),)


@kernel(reference=lambda x: x + 1.0, case=_case, tuning=Tuning(inputs=_inputs))
def planted(x: torch.Tensor):
    out = torch.empty_like(x)
    for rows in hl.tile(x.size(0)):
        out[rows, :] = x[rows, :] + 1.0  # one more
    return out
"""

MODULE = """
import triton
import triton.language as tl
import family as _source_module

@triton.jit
def _helion_one(x, out, BLOCK: tl.constexpr):
    # src[one.py:3]: out[rows] = x[rows]
    v_0 = tl.max(tl.load(x), 0)
    tl.store(out, v_0)

def one(x, *, _launcher=None):
    '''Of x.'''
    out = _source_module.memory_for(x)
    _launcher(_helion_one, (1,), x, out, num_warps=4)
    return out
"""


@pytest.mark.parametrize(
    "old, new",
    [("_helion_one", "_helion_two"), ("v_0", "values"), ("memory_for", "new_memory"), ("one.py:3", "two.py:9"), ("Of x", "y")],
)
def test_names_comments_and_docstrings_are_no_difference(old, new):
    assert find_difference(MODULE, MODULE.replace(old, new)) is None


@pytest.mark.parametrize(
    "old, new",
    [
        ("tl.max", "tl.min"),
        ("num_warps=4", "num_warps=8"),
        ("num_warps=4", "num_stages=4"),
        ("tl.store(out, v_0)", "tl.store(x, v_0)"),
        ("(x, out, BLOCK", "(out, x, BLOCK"),
        ("(x), 0)", "(x), 1)"),
        ("tl.store(out, v_0)", "tl.store(out, v_0); tl.store(out, v_0)"),
        ("import triton.language as tl", "import triton.tongue as tl"),
        ("BLOCK: tl.constexpr", "BLOCK"),
    ],
)
def test_all_else_is_a_difference(old, new):
    assert old in MODULE
    assert "is now" in find_difference(MODULE, MODULE.replace(old, new))


def test_a_renamed_kernel_is_equal_and_an_edited_one_is_not(tmp_path):
    """Each state has another fingerprint; what is compared is what Helion makes of it.  All are kernels of one package."""
    states = {
        "old": KERNEL,
        "renamed": KERNEL.replace("rows", "tokens").replace("# one more", "# 1"),
        "edited": KERNEL.replace("x[rows, :] + 1.0", "x[rows, :] + 2.0"),
        "elsewhere": KERNEL.replace("torch.empty_like(x)", "torch.empty_like(x.T).T"),
    }
    package = tmp_path / "helion_compile"
    (package / "kernels").mkdir(parents=True)
    for path in restamp.Path(restamp.__file__).parents[1].iterdir():
        if path.name not in ("kernels", "__pycache__"):
            (package / path.name).symlink_to(path.resolve())
    for name, text in states.items():
        (package / "kernels" / f"family_{name}.py").write_text(text.replace("planted", name))
    imports = [f"from helion_compile.kernels.family_{name} import {name}" for name in states]
    (package / "kernels" / "__init__.py").write_text("\n".join([*imports, f"__all__ = {list(states)}"]))

    target = restamp.SHIPPED_TARGETS["nvidia_h200"]
    fingerprints = {name: fingerprint for fingerprint, name in restamp.ask(tmp_path, target, [])["kernels"].items()}
    assert set(fingerprints) == set(states)
    case, config = {"num_tokens": 16, "hidden_size": 64}, {"block_sizes": [1], "num_warps": 4}
    made = restamp.ask(tmp_path, target, [restamp.Job(fingerprints[name], case, config) for name in states])["made"]
    _, renamed, edited, elsewhere = (restamp.describe_difference(made[0], other) for other in made)
    assert renamed is None
    assert "1.0" in edited and "2.0" in edited
    assert "launched was" in elsewhere or "is now" in elsewhere


ROWS = [{"case": {"num_tokens": n}, "config": {"num_warps": 4}, "us": 1.0, "made_with": {"kernel": "old"}} for n in (1, 2)]


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A stale table of a kernel that is now "new"; ``difference`` answers for every job."""
    path = tmp_path / "planted" / "nvidia_h200.json"
    path.parent.mkdir()
    path.write_text("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n")

    class Kernel:
        config_fingerprint, configs = "new", Configs(bucketed=("num_tokens",))

    monkeypatch.setattr(restamp.registry, "get_kernel", lambda name: Kernel)
    (stale,) = restamp.find_stale(tmp_path)
    return stale


def fingerprints(table):
    return [row["made_with"]["kernel"] for row in json.loads(table.file.path.read_text())]


def test_equal_code_of_all_rows_stamps_them_and_changes_nothing_else(table, monkeypatch):
    monkeypatch.setattr(restamp, "ask", lambda root, target, jobs: {"made": [{"source": "", "launches": []} for _ in jobs]})
    before = table.file.path.read_text()
    assert restamp.restamp([table], table.file.path.parent, sample=1) == [None] and fingerprints(table) == ["old", "old"]
    assert restamp.restamp([table], table.file.path.parent) == [None]
    assert table.file.path.read_text() == before.replace("old", "new")
    assert not restamp.find_stale(table.file.path.parents[1])


@pytest.mark.parametrize("other", [{"source": "x = 1", "launches": []}, {"source": "", "launches": [1]}, {"error": "no"}])
def test_one_row_that_differs_leaves_them_all(table, monkeypatch, other):
    def ask(root, target, jobs):
        made = [{"source": "", "launches": []} for _ in jobs]
        return {"made": [*made[:-1], other] if root != table.file.path.parent else made}

    monkeypatch.setattr(restamp, "ask", ask)
    (answer,) = restamp.restamp([table], table.file.path.parent)
    assert answer.startswith("1 of 2 configs have other code") and fingerprints(table) == ["old", "old"]
