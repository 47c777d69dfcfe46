# SPDX-License-Identifier: Apache-2.0
"""What can be said of the benchmarks without a GPU: they are found, explain themselves, and say what they lack."""

import json

import pytest
import torch

from helion_compile.bench import launch
from helion_compile.bench.timing import require_packages
from helion_compile.cli.main import COMMANDS, main

MEASURED = ["chains", "kernels", "layers", "launch", "vllm"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"Usage: helion-compile {command} ") and "`" not in told.partition("Options:")[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", MEASURED)
def test_without_a_gpu_a_sentence(name):
    with pytest.raises(SystemExit, match=rf"bench {name} measures on a GPU, and torch .* finds none here\."):
        main(["bench", name])


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ("kernels --m 0", "Invalid value for '--m': '0' is no count; give 1 or more"),
        ("kernels --kernels scaled_mm --k 1000", "scaled_mm cannot be measured with K of [1000]"),
        ("kernels --kernels scaled_mm --n 7", "scaled_mm cannot be measured with K of [4096] and N of [7]"),
        (
            "kernels --json no/folder/rows.json",
            "Invalid value for '--json': no/folder/rows.json cannot be written, there is no folder",
        ),
        (
            "chains --plot no/folder/a",
            "Invalid value for '--plot': no/folder/a-speedup.svg cannot be written, there is no folder",
        ),
        ("chains --shapes 4096", "Invalid value for '--shapes': '4096' is no K,N such as 4096,6144"),
        ("chains --shapes 4096,x", "Invalid value for '--shapes': 'x' is no count"),
        ("layers --batch -1", "Invalid value for '--batch': '-1' is no count"),
        ("launch --json .", "Invalid value for '--json': . cannot be written, it is a folder"),
        ("matching --nodes 0", "Invalid value for '--nodes': '0' is no count"),
        ("plot rows.json --out no/folder/a", "Invalid value for '--out': no/folder/a-speedup.svg cannot be written"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments.split()])
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


def test_parts_of_a_benchmark_that_fails_later_are_kept(monkeypatch, tmp_path, capsys):
    def fails():
        raise ValueError("31 spans are not 10 equal steps")

    monkeypatch.setattr(launch, "require_gpu", lambda command: None)
    monkeypatch.setattr(launch, "machine", lambda: {"gpu": "none"})
    monkeypatch.setattr(launch.cold_start, "measure", lambda: {"ours": 4.0})
    monkeypatch.setattr(launch.decode, "measure", fails)
    monkeypatch.setattr(torch, "randn", lambda *sizes, **options: None)
    file = tmp_path / "figures.json"
    with pytest.raises(ValueError, match="31 spans"):
        main(["bench", "launch", "--parts", "cold", "decode", "--json", str(file)])
    assert json.loads(file.read_text()) == {"machine": {"gpu": "none"}, "m": 16, "k": 4096, "cold start, s": {"ours": 4.0}}
    assert "4.00" in capsys.readouterr().out


def test_packages_that_are_not_installed_are_named():
    with pytest.raises(SystemExit, match="bench x makes a model with torch and nosuch: pip install nosuch"):
        require_packages("x", "torch", "nosuch")
