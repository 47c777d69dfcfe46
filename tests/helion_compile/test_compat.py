# SPDX-License-Identifier: Apache-2.0
"""helion_compile.compat: the private names are where it says, and its lists are those of the tested environments."""

import importlib.metadata
import re
from pathlib import Path

import pytest
import torch

from helion_compile import compat

ROOT = Path(__file__).parents[2]
HERE = {name: entry for name, entry in compat.NAMES.items() if entry.versions is not compat.VLLM}


@pytest.mark.parametrize("name", HERE)
def test_a_name_is_there(name):
    if name in compat.CUDA_NAMES and not torch.backends.cuda.is_built():
        assert compat.find_name(name, None) is None or name in ("allocate_cuda", "is_stream_capturing")
    else:
        assert getattr(compat, name) is not None


def test_a_name_that_a_version_lacks_is_said_with_the_tested_ones(monkeypatch):
    lacking = compat.NAMES["ir"]._replace(attribute="Lacking")
    monkeypatch.setitem(compat.NAMES, "ir", lacking)
    with pytest.raises(AttributeError, match="tested with torch._inductor.ir of 2.11.0, "):
        compat.ir  # noqa: B018
    assert compat.find_name("ir", 3) == 3


def test_a_helion_that_does_not_fit_torch_is_said_in_a_sentence(monkeypatch):
    def fail(name):
        raise ImportError("cannot import name 'IntelGPUError'")

    monkeypatch.setattr(compat.importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"cannot be imported beside torch .*IntelGPUError.*pip install 'helion<1\.5'"):
        compat.helion  # noqa: B018


def test_a_name_that_is_in_no_list():
    with pytest.raises(ImportError):
        from helion_compile.compat import nothing  # noqa: F401


def test_versions_are_those_of_the_constraints():
    """The environments that the Makefile can make."""
    files = [ROOT / "constraints.txt", *sorted((ROOT / "constraints").glob("torch-*.txt"))]
    pinned = [dict(re.findall(r"^(\w+)==(\S+)", file.read_text(), re.MULTILINE)) for file in files]
    assert {each["torch"] for each in pinned} == set(compat.TORCH)
    assert {each["helion"] for each in pinned} == set(compat.HELION)
    of_vllm = {file.stem.removeprefix("vllm-") for file in (ROOT / "constraints").glob("vllm-*.txt")}
    assert compat.VLLM[-1] in of_vllm and of_vllm <= set(compat.VLLM)


@pytest.mark.parametrize(("library", "versions"), [("torch", compat.TORCH), ("helion", compat.HELION)])
def test_this_environment_is_a_tested_one(library, versions):
    assert importlib.metadata.version(library).partition("+")[0] in versions
