# SPDX-License-Identifier: Apache-2.0
"""Finding a kernel by the key that a graph holds."""

import subprocess
import sys

import pytest
import torch

import helion_compile
from helion_compile import UnknownKernelError
from helion_compile.definitions import registry
from tests.support.small_kernels import add


def version(body, helper=None):
    def versioned(x):
        return helper

    return helion_compile.kernel(versioned, reference=lambda x: body(x), name="test_versioned")


def test_a_kernel_is_found_by_its_key():
    assert registry.find_kernel(add.key) is add


def test_graphs_compiled_before_a_redefinition_go_on_with_the_old_kernel():
    first = version(torch.abs)
    function = torch.compile(lambda x: first(x), backend="aot_eager", fullgraph=True)
    assert function(torch.tensor([-1.0])).item() == 1.0
    second = version(torch.neg)
    assert second(torch.tensor([-2.0])).item() == 2.0 and function(torch.tensor([-3.0])).item() == 3.0
    assert function(torch.tensor([3.0])).item() == 3.0


def test_a_kernel_whose_key_was_never_asked_for_is_found_by_the_key_it_has():
    kernel = version(torch.exp)
    assert "key" not in vars(kernel)
    twin = version(torch.exp)
    assert registry.find_kernel(twin.key) is twin


def test_what_a_kernel_reaches_may_be_defined_below_it():
    kernel = version(torch.sin)
    assert "fingerprint" not in vars(kernel)  # taken at first use, when the module is complete


def test_an_unknown_key_says_what_there_is():
    with pytest.raises(
        UnknownKernelError, match=rf"{add.name}@00000000, but this process has another version of it, {add.key}"
    ):
        registry.find_kernel(f"{add.name}@00000000")
    with pytest.raises(UnknownKernelError, match="nothing@0, but this process has not defined it; it has .*quant.*import"):
        registry.find_kernel("nothing@0")


def test_kernels_of_the_package_are_imported_when_a_graph_names_one():
    """A graph from a cache may be the first to do so; importing the package alone loads none."""
    code = (
        "import sys\n"
        "from helion_compile.definitions import registry\n"
        "assert 'helion_compile::quant' not in registry._by_name, 'loaded too early to show anything'\n"
        "try: registry.find_kernel('helion_compile::quant@00000000')\n"
        "except LookupError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert "another version of it, helion_compile::quant@" in done.stdout, done.stderr


def test_a_name_alone_is_the_version_of_now():
    first, second = version(torch.abs), version(torch.neg)
    assert registry.find_kernel("test_versioned") is second and registry.find_kernel(first.key) is not second
    with pytest.raises(UnknownKernelError, match="no Helion kernel is named 'nothing'"):
        registry.find_kernel("nothing")
