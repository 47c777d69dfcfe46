# SPDX-License-Identifier: Apache-2.0
"""Every test starts from a compiler that remembers nothing, with global state as it was."""

import os

# Inductor's C++ code without vector instructions.  To find out which there are, each process that compiles for a CPU, and each
# empty cache folder, costs some 10 s: four trial compilations, and as many processes that import torch.  Torch reads this when
# it is imported; processes that tests start inherit it.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "0")

import pytest
import torch

from helion_compile.runtime import reference


@pytest.fixture(autouse=True)
def forget_compilations():
    """Dynamo stops compiling a function after eight variants; without this, results would depend on test order."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def kernels_are_called(monkeypatch):
    """Compiled graphs call kernels as on a device that has them, though it is a CPU; what is cached may be made otherwise."""
    monkeypatch.setattr(reference, "lacks_kernel", lambda args: False)
    with torch._inductor.config.patch(fx_graph_cache=False), torch._functorch.config.patch(enable_autograd_cache=False):
        yield


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="compile every row of the shipped config tables, not a sample")
    parser.addoption("--write-golden", action="store_true", help="write the golden files anew instead of comparing")
    parser.addoption("--pictures", action="store_true", help="write the pictures of docs/inspecting.md anew")
