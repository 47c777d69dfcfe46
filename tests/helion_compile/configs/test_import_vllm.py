# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from helion_compile.cli.import_configs import main
from helion_compile.configs.import_vllm import read_vllm_file
from helion_compile.configs.table import Case, ConfigError, ConfigTable, Gpu

H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0))
SMALL = {"block_sizes": [1, 512], "num_warps": 4, "range_multi_buffers": [None], "pid_type": "flat"}
LARGE = {"block_sizes": [64, 32], "num_warps": 8, "range_multi_buffers": [None], "pid_type": "flat"}

LISTED = [
    {"key": {}, "config": LARGE},
    {"key": {"hidden_size": 4096, "numtokens": 1}, "config": SMALL},
    {"key": {"hidden_size": 4096, "numtokens": 256}, "config": LARGE},
]
FLAT = {"default": LARGE, "hidden_size_4096_numtokens_1": SMALL, "hidden_size_4096_numtokens_256": LARGE}
BY_GPU = {"nvidia_h100": FLAT, "nvidia_h200": {"default": SMALL}, "nvidia_rtx_4090": {"default": SMALL}}


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("HELION_COMPILE_CONFIG_DIR", str(tmp_path / "own"))
    return tmp_path / "own"


def write(folder, content, name="vllm.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def run(path, *options, gpu=H100.name):
    return main([str(path), "--kernel", "norm_quant", "--gpu", gpu, *options])


@pytest.mark.parametrize("content", [LISTED, FLAT, BY_GPU], ids=["list", "flat", "flat under GPUs"])
def test_all_three_forms_give_the_same_rows(tmp_path, own, capsys, content):
    assert run(write(tmp_path, content)) == 0
    path = own / "norm_quant" / "nvidia_h100_80gb_hbm3.json"
    assert f"3 rows of {tmp_path / 'vllm.json'} are now in {path}" in capsys.readouterr().out
    table = ConfigTable("norm_quant", kernel_fingerprint="v1")
    assert table.pick(Case(hidden_size=4096, num_tokens=2), H100).config == LARGE
    assert table.pick(Case(hidden_size=4096, num_tokens=1), Gpu("NVIDIA H200", (9, 0))).config == SMALL
    assert table.pick(Case(dtype="bf16"), H100).origin == "default-case"
    (default, *_) = table.rows(H100)
    assert default.made_with == {"gpu": H100.name, "arch": "sm_90", "source": "vllm vllm.json"}


def test_key_fields_are_renamed_and_added(tmp_path, own):
    options = ("--rename", "hidden_size=k", "--set", "dtype=bf16", "--set", "bias=true")
    assert run(write(tmp_path, LISTED), *options) == 0
    cases = [row.case for row in ConfigTable("norm_quant").rows(H100)]
    assert cases == [Case(), *(Case(k=4096, num_tokens=n, dtype="bf16", bias=True) for n in (1, 256))]


def test_bad_entries_are_told_and_the_rest_is_imported(tmp_path, own, capsys):
    odd = [*LISTED, 7, {"key": {"a": [1]}, "config": SMALL}, {"config": SMALL}, {"key": {"a": 1}}]
    path = write(tmp_path, odd)
    assert run(path) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" has ")[0] for line in told] == [f"{path}: entry {n}" for n in (3, 4, 5, 6)]
    assert all(line.endswith("; it is left out") for line in told)
    assert len(ConfigTable("norm_quant").rows(H100)) == 3


def test_a_flat_key_without_key_fields_is_told(tmp_path, own, capsys):
    path = write(tmp_path, {"fast one": SMALL, "hidden_size_1": SMALL})
    assert run(path) == 0
    assert capsys.readouterr().err == (
        f"{path}: entry 'fast one' has 'fast one' where key fields and their sizes belong; it is left out\n"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[{", "cannot be imported"),
        ("7", "it is 7, not a list or object of configs"),
        ({"amd_mi300x": FLAT}, "has configs for 'amd_mi300x' and none for nvidia_h100_80gb_hbm3"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_in_no_form_is_one_sentence(tmp_path, own, capsys, content, reason):
    assert run(write(tmp_path, content)) == 1
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1 and not own.exists()


def test_an_absent_file_and_an_empty_one_fail(tmp_path, own, capsys):
    assert run(tmp_path / "none.json") == 1
    assert "No such file" in capsys.readouterr().err
    assert run(write(tmp_path, [])) == 1


def test_names_never_become_paths(tmp_path, own, capsys):
    path = write(tmp_path, LISTED)
    assert main([str(path), "--kernel", "../../etc", "--gpu", "NVIDIA H100"]) == 1
    assert "identifier like norm_quant" in capsys.readouterr().err
    assert run(write(tmp_path, {"../../x": FLAT}, "by_gpu.json"), "--capability", "9.0", gpu="../../x") == 1
    assert run(path, "--capability", "9.0", gpu="../../x") == 0
    assert [found.name for found in own.rglob("*.json")] == ["x.json"]


def test_a_gpu_of_unknown_capability_must_say_it(tmp_path, own, capsys):
    path = write(tmp_path, LISTED)
    assert run(path, gpu="NVIDIA Z900") == 1
    assert "give it, as in --capability 9.0" in capsys.readouterr().err
    assert run(path, "--capability", "10.3", gpu="NVIDIA Z900") == 0
    assert ConfigTable("norm_quant").rows(Gpu("NVIDIA Z900", (10, 3)))[0].arch == "sm_103"


def test_the_gpu_with_the_longest_fitting_name_is_taken(tmp_path):
    path = write(tmp_path, {"nvidia_h100": FLAT, "nvidia_h100_80gb_hbm3": {"default": SMALL}, "nvidia_h1": FLAT})
    rows, skipped = read_vllm_file(path, H100)
    assert [row.config for row in rows] == [SMALL] and not skipped
    with pytest.raises(ConfigError):
        read_vllm_file(path, Gpu("NVIDIA H10", (9, 0)))


@pytest.mark.parametrize(
    "value", ["[" * 100_000, "[" * 900 + "]" * 900, "[]", "{}", "NaN", "1e999", "9" * 400, "9" * 5000, "x" * 201]
)
def test_a_field_that_no_case_holds_is_told_before_a_file_is_read(capsys, value):
    with pytest.raises(SystemExit):
        run("absent.json", "--set", f"a={value}")
    assert "Invalid value for '--set': the key field a is " in capsys.readouterr().err


@pytest.mark.parametrize("content", [[], {}])
def test_a_file_without_configs_is_told(tmp_path, own, capsys, content):
    path = write(tmp_path, content)
    assert run(path) == 1 and capsys.readouterr().err == f"{path} has no configs\n"


def test_an_entry_that_no_table_can_hold_keeps_no_other_out(tmp_path, own, capsys):
    path = write(tmp_path, json.dumps([*LISTED, {"key": {"a": 1}, "config": {"b": 7}}]).replace("7", "1e999"))
    assert run(path) == 0 and "entry 3 is not JSON" in capsys.readouterr().err
    assert len(ConfigTable("norm_quant").rows(H100)) == 3


def test_two_fields_that_get_one_name_are_told(tmp_path, own, capsys):
    path = write(tmp_path, LISTED)
    assert run(path, "--rename", "hidden_size=num_tokens") == 0
    assert "entry 1 has two key fields that were given one name" in capsys.readouterr().err
