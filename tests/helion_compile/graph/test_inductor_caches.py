# SPDX-License-Identifier: Apache-2.0
"""Inductor's caches, with processes that share nothing but the cache's folder.

The first process meets an empty cache, the second the same sources again, the third finds each module edited in its own way.
On a CPU the kernels run their references, so an edit of the body alone shows in what was compiled, not in the numbers.
"""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from filelock import FileLock

from tests.support import ROOT

MODULE = '''
import helion.language as hl
import torch

import helion_compile
from shared_by_NAME import imported

OFFSET = 1.0
TABLE = {"slope": 2.0}
KINDS = {"alpha", "beta", "gamma", "delta"}  # ordered by hashes, which are other ones in each process


def helper(values):
    assert "delta" in KINDS and "one" not in {"two", "three", "four"}
    return values * TABLE["slope"] + OFFSET


def _reference(x):
    return below(imported(helper(x)))


def _check_supported(x):
    return None


@helion_compile.kernel(reference=_reference, check_supported=_check_supported, name="NAME")
def kernel(x):
    """Docstring."""
    out = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        out[tile] = below(imported(helper(x[tile])))
    return out


def below(values):
    return values - 3.0
'''
SHARED = "def imported(values):\n    return values * 4.0\n"

EDITS = {  # module: (file, old, new, does it change which config is best)
    "untouched": None,
    "body": ("NAME.py", "out[tile] = below", "out[tile] = 1.0 * below", True),
    "comment": ("NAME.py", '    """Docstring."""', '    """Docstring!"""  # a comment', False),
    "helper": ("NAME.py", 'TABLE["slope"] + OFFSET', 'TABLE["slope"] - OFFSET', True),
    "constant": ("NAME.py", "OFFSET = 1.0", "OFFSET = 1.5", True),
    "container": ("NAME.py", '"slope": 2.0', '"slope": 2.5', True),
    "reference": ("NAME.py", "below(imported(helper(x)))", "below(imported(helper(x))) + 1", False),
    "refusal": ("NAME.py", "return None", "return", False),
    "imported_helper": ("shared_by_NAME.py", "* 4.0", "* 5.0", True),
    "helper_below": ("NAME.py", "- 3.0", "- 4.0", True),
}
# Of the others the fingerprints are compared, which are the kernel's part of every key.
COMPILED = ("untouched", "body", "reference", "imported_helper")


class Processes:
    """What three processes in a row told, and the folders they share."""

    def __init__(self, folder):
        self.folder = folder
        for name in EDITS:
            (folder / f"{name}.py").write_text(MODULE.replace("NAME", name))
            (folder / f"shared_by_{name}.py").write_text(SHARED)
        self.tune(num_warps=4)
        self.cold = self.run()
        self.warm = self.run()
        for name, (file, old, new, _) in {name: edit for name, edit in EDITS.items() if edit}.items():
            path = folder / file.replace("NAME", name)
            text = path.read_text()
            assert text.count(old) == 1
            path.write_text(text.replace(old, new))
        self.tune(num_warps=8)
        self.edited = self.run()

    def tune(self, **config):
        table = self.folder / "configs" / "quant" / "nvidia_h200.json"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(json.dumps([{"case": {}, "config": {"block_sizes": [1], **config}}]))

    def run(self):
        return run(self.folder, "cache", *COMPILED, "--keys", *(name for name in EDITS if name not in COMPILED))


def run(folder, cache, *arguments):
    """What a process told that has the modules in ``folder`` and the caches in ``cache`` below it."""
    env = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": str(folder / cache),
        "HELION_COMPILE_CONFIG_DIR": str(folder / "configs"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "tests.support.cached_program", *arguments]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Run once, also where several workers share the tests of this file."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "caches"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            told = Processes(folder)
            (folder / "told.json").write_text(json.dumps([told.cold, told.warm, told.edited]))
        cold, warm, edited = json.loads((folder / "told.json").read_text())
        return SimpleNamespace(cold=cold, warm=warm, edited=edited)


def assert_compiled(told):
    assert told["right"] and told["generated"] == 1
    assert told["graphs"] == {"hit": 0, "miss": 1, "bypass": 0}
    assert told["autograd"] == {"hit": 0, "miss": 1, "bypass": 0}


def assert_from_cache(told):
    assert told["right"] and told["generated"] == 0
    assert told["graphs"]["miss"] == told["graphs"]["bypass"] == 0
    assert told["autograd"] == {"hit": 1, "miss": 0, "bypass": 0}


def test_a_second_process_compiles_nothing_again_and_is_right(processes):
    for name in (*COMPILED, "backend"):
        assert_compiled(processes.cold[name])
        assert_from_cache(processes.warm[name])


def test_an_edited_kernel_is_never_served_from_the_cache(processes):
    for name in COMPILED:
        (assert_compiled if EDITS[name] else assert_from_cache)(processes.edited[name])


def test_fingerprints_are_equal_in_every_process_and_change_with_every_edit(processes):
    for name, edit in EDITS.items():
        assert processes.cold[name]["fingerprints"] == processes.warm[name]["fingerprints"]
        (cold, cold_config), (edited, edited_config) = (
            run[name]["fingerprints"] for run in (processes.cold, processes.edited)
        )
        assert (cold != edited) == bool(edit), name
        assert (cold_config != edited_config) == bool(edit and edit[3]), name


def test_a_retuned_table_counts_at_once(processes):
    """For a pass that chooses by the table, graphs compiled with the old one are not served."""
    assert processes.warm["picked"]["num_warps"] == 4 and processes.edited["picked"]["num_warps"] == 8
    assert_from_cache(processes.warm["backend"])
    assert_compiled(processes.edited["backend"])


@pytest.mark.slow
def test_caches_that_travel_as_a_file_are_served_and_never_stale(tmp_path):
    """``torch.compiler.save_cache_artifacts``: compile on one machine, load on another, where a kernel may be edited."""
    (tmp_path / "kept.py").write_text(MODULE.replace("NAME", "kept"))
    (tmp_path / "shared_by_kept.py").write_text(SHARED)
    saved = run(tmp_path, "here", "--save", str(tmp_path / "artifacts"), "kept")
    loaded = run(tmp_path, "there", "--load", str(tmp_path / "artifacts"), "kept")
    (tmp_path / "shared_by_kept.py").write_text(SHARED.replace("4.0", "5.0"))
    edited = run(tmp_path, "elsewhere", "--load", str(tmp_path / "artifacts"), "kept")
    for name in ("kept", "backend"):
        assert_compiled(saved[name])
        assert_from_cache(loaded[name])
    assert_compiled(edited["kept"])
    assert_from_cache(edited["backend"])
