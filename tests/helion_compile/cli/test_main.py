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
        ("explain --modle x", "No such option '--modle'"),
        ("explain --model x --quantize fp8row", "'fp8row' is not one of 'none', 'fp8-row'"),
    ],
)
def test_what_is_no_command_or_option_is_answered_with_the_nearest(words, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and sentence in error and "--help' for help." in error


@pytest.mark.parametrize("words", [[], ["bench"]])
def test_without_a_command_the_commands_are_listed(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and "bench pick " in capsys.readouterr().err.replace("  pick ", "bench pick ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell, capsys):
    assert main(["--completion", shell]) == 0
    assert "_HELION_COMPILE_COMPLETE" in capsys.readouterr().out


def test_completion_of_a_command(monkeypatch, capsys):
    monkeypatch.setenv("_HELION_COMPILE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "helion-compile bench k")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == ["plain,kernels"]


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("helion-compile ")


@pytest.mark.parametrize("words", [["-h"], ["bench", "-h"], ["explain", "-h"], ["--version"]])
def test_help_imports_no_torch(words):
    code = (
        f"import runpy, sys; sys.argv[1:] = {words}\n"
        "try: runpy.run_module('helion_compile', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
