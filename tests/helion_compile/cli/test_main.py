# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile COMMAND``: one list of commands, and an answer to what is none of them."""

import subprocess
import sys

import pytest

from helion_compile.cli.main import COMMANDS, main


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_the_commands(option, capsys):
    assert main([option]) == 0
    out = capsys.readouterr().out
    assert all(f"  {command} " in out for command in COMMANDS)


def test_help_of_a_group_lists_its_commands(capsys):
    assert main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    assert "bench kernels" in out and "configs import" not in out


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("bench kernel", "there is no command 'bench kernel'; did you mean 'bench kernels'?"),
        ("exlain --model x", "there is no command 'exlain'; did you mean 'explain'?"),
        ("import", "there is no command 'import'; did you mean 'configs import'?"),
        ("bench tune", "there is no command 'bench tune'; did you mean 'tune'?"),
        ("zzz", "there is no command 'zzz'."),
        ("bench zzz", "there is no command 'bench zzz'."),
        ("bench", "which command of bench?"),
        ("", "which command?"),
    ],
)
def test_what_is_no_command_is_answered_with_the_nearest_and_the_known_ones(words, sentence, capsys):
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"helion_compile: {sentence}\n") and "bench pick " in error


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("helion-compile ")


def test_help_imports_no_torch():
    code = (
        "import runpy, sys; sys.argv[1:] = ['-h']\n"
        "try: runpy.run_module('helion_compile', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
