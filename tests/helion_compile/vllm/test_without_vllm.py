# SPDX-License-Identifier: Apache-2.0
"""What holds where vLLM is not installed or not asked for."""

import os
import re
import subprocess
import sys
from importlib import import_module

import pytest

from helion_compile.vllm.options import OPTIONS, SWITCH, checked, from_environment, share_environment
from tests.support import ROOT


def test_the_entry_point_is_declared_and_there():
    text = (ROOT / "pyproject.toml").read_text()
    module, function = re.search(r'entry-points."vllm.general_plugins"\]\nhelion_compile = "([\w.]+):(\w+)"', text).groups()
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("switch", [None, "0", ""])
def test_without_the_switch_the_plugin_imports_nothing_of_vllm(switch):
    program = (
        "import sys, helion_compile.vllm.plugin as plugin; plugin.register(); "
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'vllm']"
    )
    environment = {name: value for name, value in os.environ.items() if name != SWITCH} | {"PYTHONPATH": str(ROOT)}
    if switch is not None:
        environment[SWITCH] = switch
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_options(monkeypatch):
    monkeypatch.setenv(OPTIONS, '{"disable": ["quant"]}')
    assert checked(from_environment()).disable == ("quant",)


@pytest.mark.parametrize(
    ("text", "error"),
    [("disable", "and no JSON"), ('["quant"]', "it is an object, such as"), ('{"fast": 1}', "no option 'fast'")],
)
def test_options_that_are_none(monkeypatch, text, error):
    monkeypatch.setenv(OPTIONS, text)
    with pytest.raises((ValueError, TypeError), match=error):
        checked(from_environment())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "HELION_COMPILE_"),
        ("MY_, OTHER_", "MY_,OTHER_,HELION_COMPILE_"),
        ("HELION_COMPILE_,MY_", "HELION_COMPILE_,MY_"),
    ],
)
def test_ray_is_told_of_our_variables(before, after, monkeypatch):
    monkeypatch.setenv("VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY", before)
    for _ in range(2):
        share_environment()
        assert os.environ["VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY"] == after
