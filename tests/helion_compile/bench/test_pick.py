# SPDX-License-Identifier: Apache-2.0
import json
import zipfile

import pytest

from helion_compile.bench.pick import Figure, main
from helion_compile.bench.vllm_pickers import MissingPicker, VllmPickers

# The layout of a vLLM whose pickers can be loaded, with pickers of our own in it.
SOURCES = {
    "case_key.py": """
class CaseKey(dict):
    def __hash__(self):
        return hash(str(sorted(self.items())))
""",
    "ops/silu_mul_fp8.py": """
import a_module_that_is_not_installed
_pick_cache: dict[tuple, CaseKey] = {}
def pick_silu_mul_fp8_config(args: NotLoaded, config_keys: list[CaseKey]) -> CaseKey:
    for _ in range(200):
        str(args[0].shape)
    return config_keys[0]
@a_module_that_is_not_installed.register
def silu_mul_fp8(x): ...
""",
    "ops/rms_norm_dynamic_per_token_quant.py": """
def pick_config(args, config_keys):
    _, x, *_ = args
    return CaseKey(hidden_size=x.shape[1])
""",
}


@pytest.fixture
def vllm(tmp_path):
    folder = tmp_path / "vllm" / "kernels" / "helion"
    (folder / "ops").mkdir(parents=True)
    for name, source in SOURCES.items():
        (folder / name).write_text(source)
    return tmp_path


def figures(path):
    return {figure["what"]: figure for figure in json.loads(path.read_text())["figures"]}


def test_all_figures_are_measured_and_written(vllm, capsys):
    assert main(["--picks", "80", "--vllm", str(vllm), "--json", str(vllm / "out.json")]) == 0
    found = figures(vllm / "out.json")
    assert all(figure["value"] > 0 for figure in found.values())
    assert {"arguments of activation_quant", "arguments of silu_mul_fp8, vLLM"} <= found.keys()
    assert "A pick among 300 rows, 8 shapes" in capsys.readouterr().out


def test_without_vllm_it_says_what_is_missing_and_a_check_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--picks", "80", "--vllm", str(tmp_path), "--json", str(tmp_path / "out.json")]) == 0
    missing = figures(tmp_path / "out.json")["arguments of silu_mul_fp8, vLLM"]
    assert missing["value"] is None and "has no vllm/kernels/helion/case_key.py" in missing["note"]
    assert "pip download --no-deps vllm==0.31.0" in " ".join(capsys.readouterr().out.split())


def test_a_check_fails_on_a_missed_goal(vllm, monkeypatch):
    outcome = [Figure("a", 1.0, goal=2.0), Figure("b", None)]
    monkeypatch.setattr("helion_compile.bench.pick.measure", lambda picks, path: outcome)
    assert main(["--check"]) == 0
    outcome.append(Figure("c", 3.0, goal=2.0))
    assert main(["--check"]) == 1 and main([]) == 0
    outcome[-1] = Figure("c", None, goal=2.0)
    assert main(["--check"]) == 1


def test_a_file_that_cannot_be_written_is_one_sentence(vllm, capsys):
    with pytest.raises(SystemExit):
        main(["--picks", "8", "--vllm", str(vllm), "--json", str(vllm / "no" / "out.json")])
    assert "out.json cannot be written, there is no folder" in capsys.readouterr().err


def test_pickers_load_from_a_folder_and_from_a_wheel(vllm):
    wheel = vllm / "vllm.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, source in SOURCES.items():
            archive.writestr(f"vllm/kernels/helion/{name}", source)
    for path in (vllm, wheel):
        pickers = VllmPickers(path)
        keys = [pickers.case_key(n=1)]
        assert pickers.load("silu_mul_fp8")((type("X", (), {"shape": 1}),), keys) is keys[0]


def test_what_is_not_vllm_is_one_sentence(vllm):
    (vllm / "not.whl").write_text("no zip")
    for path in (vllm / "not.whl", vllm / "absent"):
        with pytest.raises(MissingPicker, match="--vllm takes a wheel"):
            VllmPickers(path)
    (vllm / "vllm/kernels/helion/ops/silu_mul_fp8.py").write_text("x = 1")
    with pytest.raises(MissingPicker, match="no picker in it"):
        VllmPickers(vllm).load("silu_mul_fp8")
    (vllm / "vllm/kernels/helion/case_key.py").write_text("x = 1")
    with pytest.raises(MissingPicker, match="no CaseKey in it: use vLLM 0.31"):
        VllmPickers(vllm)
