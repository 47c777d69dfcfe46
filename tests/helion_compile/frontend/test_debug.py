# SPDX-License-Identifier: Apache-2.0
"""``debug``: the files are there, run, and give the recorded results."""

import importlib.util
import json
import subprocess
import sys

import fp8_models
import pytest
import torch

import helion_compile
from helion_compile.frontend.debug import make_program
from tests.support.needs import row_wise_products


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = fp8_models.quantize_fp8_per_row(fp8_models.qwen3())
    compiled = torch.compile(model, backend="helion", options={"numerics": "exact"})
    folder = tmp_path_factory.mktemp("inside")
    with torch.no_grad(), helion_compile.debug(folder) as path:
        compiled(fp8_models.token_ids(model, 2, 8))
    assert path == folder
    return folder


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_there(folder):
    assert {file.name for file in (folder / "graph_1").iterdir()} == {
        "before.py",
        "after.py",
        "inputs.pt",
        "report.txt",
        "report.json",
        "report.html",
        "configs.json",
    }
    others = [file.name for file in folder.iterdir()]
    assert any(name.startswith("__transformed_code_") for name in others), others  # Dynamo's, decompiled by depyf
    assert any("kernel_" in name or "AFTER_POST_GRAD" in name for name in others), others  # Inductor's


def test_the_graph_after_gives_the_recorded_results_bit_for_bit(folder):
    after = load(folder / "graph_1" / "after.py")
    owner, inputs, outputs = after.recorded()
    found = after.forward(owner, *inputs)
    assert len(found) == len(outputs) and all(map(torch.equal, found, outputs))
    text = (folder / "graph_1" / "after.py").read_text()
    assert (
        'norm_quant_1 = helion_compile.call("helion_compile::norm_quant", ' in text
        and "higher_order.helion_kernel" not in text
    )
    assert 'getitem_4: "fp8 e4m3[16, 256]" = norm_quant[0]' in text  # shapes are told
    assert "# File: transformers/models/qwen3/modeling_qwen3.py:244" in text


def test_the_graph_before_computes_the_same_unfused(folder):
    before = load(folder / "graph_1" / "before.py")
    assert all(map(torch.equal, before.run(), before.recorded()[2]))  # in "exact" numerics, bit for bit
    assert "helion_compile.call" not in (folder / "graph_1" / "before.py").read_text()


@row_wise_products
def test_it_runs_as_a_program(folder):
    done = subprocess.run([sys.executable, folder / "graph_1" / "after.py"], capture_output=True, text=True, check=True)
    assert done.stdout == "result 0: torch.bfloat16 [2, 8, 512], off the recorded one by up to 0\n"


def test_the_configs(folder):
    configs = json.loads((folder / "graph_1" / "configs.json").read_text())
    assert {"norm_quant", "norm_quant_1", "quant"} <= {config["node"] for config in configs}
    assert {config["origin"] for config in configs} == {"reference"}


def test_recorded_values_run_no_code(folder):
    """What stands in the file is data: pickled code in it is refused, not run."""
    code = (folder / "graph_1" / "after.py").read_text()
    assert 'with_name("inputs.pt"), weights_only=True' in code and not (folder / "graph_1" / "bodies.pt").exists()


def test_a_graph_with_graphs_inside(tmp_path):
    def choose(x):
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))

    with torch.no_grad(), helion_compile.debug(tmp_path):
        torch.compile(choose, backend="helion")(torch.ones(4))
    after = load(tmp_path / "graph_1" / "after.py")
    assert (tmp_path / "graph_1" / "bodies.pt").exists() and torch.equal(after.run()[0], after.recorded()[2][0])


def test_a_kernel_of_the_users_is_imported():
    from helion_compile.kernels import quant

    code = f"y = torch.ops.higher_order.helion_kernel(x, True, kernel='{quant.key}')"
    text = make_program("Graph 1", "after", code)
    assert 'y = helion_compile.call("helion_compile::quant", x, True)' in text and f"import {quant.fn.__module__}\n" in text


def test_nothing_compiled_inside(tmp_path, caplog):
    with helion_compile.debug(tmp_path):
        pass
    assert "no graph was compiled with backend='helion' inside" in caplog.text


def test_one_at_a_time(tmp_path):
    with helion_compile.debug(tmp_path), pytest.raises(RuntimeError, match="was called inside of debug"):
        with helion_compile.debug(tmp_path / "other"):
            pass
    assert not (tmp_path / "other").exists()


def test_what_is_no_folder(tmp_path):
    with pytest.raises(TypeError, match="takes the folder to write to, such as 'inside'; got 3, a int"):
        with helion_compile.debug(3):
            pass
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "inside"):
        with pytest.raises(OSError, match="debug\\(\\) cannot make the folder .*file.*, name another: "):
            with helion_compile.debug(path):
                pass


def test_an_error_inside_is_the_users(tmp_path):
    with pytest.raises(KeyError, match="mine"), helion_compile.debug(tmp_path):
        raise KeyError("mine")
    with helion_compile.debug(tmp_path):
        pass


def test_without_depyf_a_sentence_that_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "depyf", None)
    with pytest.raises(ImportError, match=r"pip install 'helion-compile\[debug\]'"), helion_compile.debug(tmp_path / "inside"):
        pass
    assert not (tmp_path / "inside").exists()
