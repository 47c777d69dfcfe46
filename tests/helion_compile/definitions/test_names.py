# SPDX-License-Identifier: Apache-2.0
"""Names of kernels have namespaces: nobody's ``rope`` is in the way of another's."""

import os
import subprocess
import sys

import pytest
import torch

import helion_compile
from helion_compile import UnknownKernelError
from helion_compile.configs.files import kernel_folder, kernel_of_folder
from helion_compile.definitions import registry
from helion_compile.definitions.names import make_name, shorten_name, split_name
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import quant
from tests.support.small_kernels import add


def defined_in(module, name="rope"):
    def fn(x):
        pass

    fn.__module__, fn.__name__ = module, name
    return fn


def kernel_in(module, name, reference=lambda x: x.clone()):
    return helion_compile.kernel(defined_in(module, name), reference=reference)


@pytest.mark.parametrize(
    "module, name, expected",
    [
        ("mine", None, "mine::rope"),
        ("mine.parts", None, "mine.parts::rope"),
        ("mine", "turn", "mine::turn"),
        ("mine", "ours::turn", "ours::turn"),
        ("mine", "ours.parts::turn", "ours.parts::turn"),
        ("helion_compile.kernels.families.rope", None, "helion_compile::rope"),
        ("my-kernels", None, "my_kernels::rope"),
        ("helion_compile_of_mine", None, "helion_compile_of_mine::rope"),
    ],
)
def test_the_namespace_is_the_module_unless_it_is_given(module, name, expected):
    assert make_name(name, defined_in(module)) == expected


@pytest.mark.parametrize(
    "name", ["", "::rope", "a b::rope", "ours::", "ours::r-o", "ours:rope", "../ours::rope", "a::b::c", 3, "né"]
)
def test_what_is_no_name_is_an_error(name):
    with pytest.raises(
        TypeError, match=r"an identifier like rms_norm, or my_namespace::rms_norm. Pass one as kernel\(name=...\)"
    ):
        make_name(name, defined_in("mine"))


def test_the_namespace_of_the_package_is_its_own():
    with pytest.raises(TypeError, match="that namespace is for the package's own kernels"):
        make_name("helion_compile::rope", defined_in("mine"))


def test_what_is_shown():
    assert (quant.name, quant.short_name, quant.bare_name) == ("helion_compile::quant", "quant", "quant")
    assert (add.short_name, add.bare_name) == ("tests.support.small_kernels::test_add", "test_add")
    assert shorten_name(quant.key) == quant.short_key == f"quant@{quant.fingerprint}"
    assert split_name("rope") == ("", "rope") and split_name("a.b::rope") == ("a.b", "rope")


def test_kernels_of_one_bare_name_are_told_apart(tmp_path):
    mine, yours = kernel_in("mine", "twin"), kernel_in("yours", "twin", lambda x: x + 1)
    assert registry.get_kernel("mine::twin") is mine and registry.find_kernel(yours.key) is yours
    with pytest.raises(
        UnknownKernelError, match="several Helion kernels are named 'twin': mine::twin, yours::twin; say which"
    ):
        registry.get_kernel("twin")
    x = torch.ones(2)
    assert torch.equal(helion_compile.call("yours::twin", x), x + 1)
    assert mine.table.kernel == "mine::twin" and kernel_folder(tmp_path, mine.name) != kernel_folder(tmp_path, yours.name)
    only = kernel_in("mine", "test_names_only")
    assert registry.get_kernel("test_names_only") is only


def test_a_bare_name_is_the_packages_own_kernel():
    kernel_in("mine", "quant")
    assert registry.get_kernel("quant") is quant


@pytest.mark.parametrize("name", ["helion_compile::quant", "mine::rope", "my_package.my_module::rope"])
def test_the_folder_of_a_table_tells_its_kernel(name, tmp_path):
    folder = kernel_folder(tmp_path, name)
    assert folder.parent == tmp_path and kernel_of_folder(folder) == name
    assert set(folder.name) <= set("abcdefghijklmnopqrstuvwxyz_.") and folder == kernel_folder(tmp_path, shorten_name(name))


def test_a_graphs_node_has_the_bare_name_and_calls_the_full_one():
    mine = kernel_in("mine", "test_names_node", lambda x: x * 2)
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x: mine(x))(torch.ones(3)).graph
    (node,) = graph.find_nodes(op="call_function", target=helion_kernel)
    assert node.name == "test_names_node" and node.kwargs["kernel"] == mine.key == f"mine::test_names_node@{mine.fingerprint}"


PROGRAM = """
import sys, torch, helion_compile

def define():
    @helion_compile.kernel(reference=lambda x: x + 1)
    def quant(x): pass

    @helion_compile.kernel(reference=lambda x: x + 2)
    def rope(x): pass

    return quant, rope

@torch.compile(backend="helion")
def quantize(x):
    scale = x.abs().amax(-1, keepdim=True).float() / 448
    return (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale

x = torch.randn(8, 64, dtype=torch.bfloat16)
if sys.argv[1] == "before":
    own = define()
quantize(x)
if sys.argv[1] == "after":
    own = define()
print(*(kernel.name for kernel in own), [site.site.fusion for site in helion_compile.report(quantize).sites])
print(torch.compile(lambda x: own[1](own[0](x)), backend="helion", fullgraph=True)(torch.zeros(1)).item())
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_kernels_named_as_ours_break_nothing(when, tmp_path):
    script = tmp_path / "my_model.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(script), when],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)},
    )
    assert done.stdout.splitlines() == ["my_model::quant my_model::rope ['quant']", "3.0"], done.stderr
