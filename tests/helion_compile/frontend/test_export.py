# SPDX-License-Identifier: Apache-2.0
"""``export``: a package that runs without Python and without this package; what cannot be one is refused early."""

import subprocess
import sys
import textwrap

import pytest
import torch

import helion_compile
from helion_compile import compat
from helion_compile.frontend.export import PackageReport
from tests.support.corpus.quantisers import torchao_row
from tests.support.programs import llama_norm, matmul, weights
from tests.support.small_kernels import add, affine


class Product(torch.nn.Module):
    """Norm, quantiser and product, and a kernel of a user's own behind them, which keeps no eager bits."""

    def __init__(self, own=True):
        super().__init__()
        self.own = own
        self.weight = torch.nn.Parameter(torch.randn(64, dtype=torch.bfloat16), requires_grad=False)
        self.b, self.b_scale = (torch.nn.Buffer(tensor) for tensor in weights())

    def forward(self, x):
        q, scale = torchao_row(llama_norm(x, self.weight))
        product = matmul(q, scale, self.b, self.b_scale)
        return affine(product, None, 3.0) + 1 if self.own else product


class Random(torch.nn.Module):
    def forward(self, x):
        kernel = helion_compile.kernel(
            add.fn, reference=lambda x, y: torch.rand_like(x), name="test_random_in_a_package", case=add.case
        )
        return kernel(x, x)


def rows(count=8):
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.fixture
def compiling(monkeypatch):
    """Nothing gets as far as code."""

    def fail(self):
        raise AssertionError("code is made")

    from torch._inductor.graph import GraphLowering

    monkeypatch.setattr(GraphLowering, "codegen", fail)


def test_what_cannot_be_in_a_package_is_refused_before_code_is_made(compiling, tmp_path):
    with pytest.raises(
        helion_compile.PackageError, match=r"test_random_in_a_package cannot be called without Python: .*called at"
    ):
        helion_compile.export(Random(), (rows(),), path=tmp_path / "random.pt2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "model.zip"}, r"path='model.zip'; torch takes a package's path that ends in '\.pt2'"),
        ({"path": "a.pt2", "options": {"verify": True}}, r"explain\(…, verify=True\)"),
        ({"path": "a.pt2", "options": {"numerics": "best"}}, "it can be default or exact|numerics"),
        ({"path": "a.pt2", "kwargs": 3}, "a dict of keyword arguments"),
    ],
)
def test_arguments_that_it_cannot_take(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        helion_compile.export(Product(), (rows(),), **arguments)


def test_what_is_no_module_and_a_program_with_arguments(tmp_path):
    with pytest.raises(TypeError, match="takes a module or an ExportedProgram; got a function"):
        helion_compile.export(lambda x: x, (rows(),), path=tmp_path / "a.pt2")
    program = torch.export.export(Product(), (rows(),))
    with pytest.raises(TypeError, match="the program has its own"):
        helion_compile.export(program, (rows(),), path=tmp_path / "a.pt2")


def test_the_report_and_what_goes_to_inductor(monkeypatch, tmp_path):
    """Options of Inductor reach it; the pass of the user runs before ours."""
    seen = {}

    def package(program, package_path, inductor_configs):
        seen.update(inductor_configs, path=package_path, dynamic=program.range_constraints)

    monkeypatch.setattr(compat, "aoti_compile_and_package", package, raising=False)
    dynamic = {"x": {0: torch.export.Dim("rows", min=2, max=64)}}
    options = {"numerics": "exact", "max_autotune": True, "post_grad_custom_pre_pass": print}
    report = helion_compile.export(
        Product(), (rows(),), path=tmp_path / "new" / "a.pt2", dynamic_shapes=dynamic, options=options
    )
    assert report.graphs == () and seen["max_autotune"] and seen["path"].endswith("new/a.pt2") and seen["dynamic"]
    passes = [getattr(each, "__name__", type(each).__name__) for each in seen["post_grad_custom_pre_pass"].passes]
    assert passes == ["print", "FusionPass", "CheckGraph"]


def test_a_report_with_notes_shows_them(capsys):
    report = PackageReport((), notes=("norm_quant at layers.0: 3 configs for all sizes",))
    assert str(report).endswith("\n\nIn the package:\n  norm_quant at layers.0: 3 configs for all sizes")
    report.print()
    assert capsys.readouterr().out.endswith("3 configs for all sizes\n")


@pytest.mark.slow
@pytest.mark.parametrize("numerics", ["default", "exact"])
def test_a_package_gives_the_same_numbers_in_a_process_without_this_package(numerics, tmp_path):
    path, data = tmp_path / "product.pt2", tmp_path / "data.pt"
    model, dynamic = Product(own=numerics == "default"), {"x": {0: torch.export.Dim("rows", min=2, max=64)}}
    report = helion_compile.export(model, (rows(),), path=path, dynamic_shapes=dynamic, options={"numerics": numerics})
    assert [fused.site.fusion for fused in report.sites] == ["norm_quant"]
    with torch.no_grad():
        compiled = torch.compile(model, backend="helion", dynamic=True, options={"numerics": numerics})
        torch.save([(rows(count), compiled(rows(count))) for count in (8, 2, 33)], data)
    program = f"""
        import sys, torch

        class Absent:
            def find_spec(self, name, *rest):
                if name.partition(".")[0] in ("helion", "helion_compile", "triton"):
                    raise ImportError(name)

        sys.meta_path.insert(0, Absent())
        model = torch._inductor.aoti_load_package({str(path)!r})
        for x, expected in torch.load({str(data)!r}):
            assert torch.equal(model(x), expected), (model(x) - expected).abs().max()
        print("equal")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.strip().endswith("equal"), done.stderr
