# SPDX-License-Identifier: Apache-2.0
"""helion_compile.vllm.identity: what vLLM's compile cache knows us by, without vLLM."""

import os

import pytest

from helion_compile.configs.gpu import Gpu
from helion_compile.fusions import CATALOGUE
from helion_compile.vllm import identity

H200 = Gpu("NVIDIA H200", (9, 0))


@pytest.fixture(autouse=True)
def own_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "user_folder", lambda: tmp_path / "own")


def test_it_is_the_same_for_the_same():
    assert identity.identity({"disable": ()}, H200) == identity.identity({"disable": ()}, H200)


def test_an_edit_of_our_sources_changes_it(monkeypatch):
    before = identity.identity({}, H200)
    monkeypatch.setattr(identity, "digest_packages", lambda: "edited")
    assert identity.identity({}, H200) != before


def test_gpu_and_options_and_tables_change_it(tmp_path):
    before = identity.identity({}, H200)
    others = [identity.identity({"disable": (name,)}, H200) for name in ("quant", "rope")]
    others.append(identity.identity({}, Gpu("NVIDIA H100", (9, 0))))
    table = tmp_path / "own" / "quant" / "nvidia_h200.json"
    table.parent.mkdir(parents=True)
    table.write_text("[]")
    others.append(identity.identity({}, H200))
    table.write_text("[ ]")
    others.append(identity.identity({}, H200))
    assert len({before, *others}) == 6


def test_it_reads_the_tables_of_every_kernel_that_may_run():
    assert {kernel.short_name for module in CATALOGUE for kernel in module.KERNELS} <= set(identity._KERNELS)


def test_what_the_tables_reader_passes_over_is_not_read(tmp_path):
    before = identity.identity({}, H200)
    own = tmp_path / "own"
    for folder in ("quant", "data/deep", "other_kernel"):
        (own / folder).mkdir(parents=True)
    os.mkfifo(own / "quant" / "nvidia_h100.json")
    with open(own / "quant" / "nvidia_h200.json", "wb") as file:
        file.truncate(65 << 20)
    for elsewhere in ("corpus.json", "data/deep/corpus.json", "other_kernel/nvidia_h200.json"):
        (own / elsewhere).write_text("[]")
    assert identity.identity({}, H200) == before
