# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile env``: all that a bug report needs, and nothing that fails where something is missing."""

import subprocess
import sys

import pytest
import torch

from helion_compile import compat
from helion_compile.cli import env
from helion_compile.configs.gpu import Gpu
from helion_compile.kernels import quant

TESTED = {"triton": compat.TRITON, "helion": compat.HELION, "vllm": compat.VLLM}


def test_as_a_command():
    done = subprocess.run([sys.executable, "-m", "helion_compile", "env"], capture_output=True, text=True, check=True)
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith(" "))
    assert lines["torch"] == f"{torch.__version__}; tested with {', '.join(compat.TORCH)}"
    assert all(f"; tested with {', '.join(tested)}" in lines[name] for name, tested in TESTED.items())
    assert {"python", "triton", "helion", "GPU", "tables", "fusions", "Inductor", "environment"} <= set(lines)
    assert f"quant: {quant.short_key}" in done.stdout and "quant: nvidia_h200 " in done.stdout


def test_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: type("Properties", (), {"total_memory": 141 << 30}))
    monkeypatch.setattr(Gpu, "current", staticmethod(lambda index=None: Gpu("NVIDIA H200", (9, 0))))
    text = env.describe()
    assert "GPU 0           NVIDIA H200, sm_90, 141 GiB" in text
    assert "for this GPU and this version of the kernel" in text


def test_what_is_set(monkeypatch):
    monkeypatch.setenv("HELION_COMPILE_CONFIG_DIR", "/tables")
    monkeypatch.setenv("UNRELATED", "secret")
    monkeypatch.delenv("HELION_COMPILE_VLLM", raising=False)
    text = env.describe()
    assert "vLLM            without the pass, which HELION_COMPILE_VLLM=1 puts there" in text
    assert "torch.compile   backend='helion' is known" in text and "force_disable_caches=False" in text
    monkeypatch.setenv("HELION_COMPILE_VLLM", "1")
    monkeypatch.setattr(torch._dynamo, "list_backends", lambda exclude: ["inductor"])
    other = env.describe()
    assert "vLLM            its compiler runs the pass too" in other and "backend='helion' is not known: its entry" in other
    assert "HELION_COMPILE_CONFIG_DIR=/tables" in text and "of the user: /tables" in text and "secret" not in text


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setattr(env, "_PACKAGES", ("no-such-package", "helion-compile"))
    assert "no-such-package not installed" in env.describe()


def test_no_argument_is_taken(capsys):
    with pytest.raises(SystemExit):
        env.main(["--all"])
    assert "No such option '--all'" in capsys.readouterr().err
