# SPDX-License-Identifier: Apache-2.0
"""What the options of commands take, and the sentence for all else."""

import os

import click
import pytest

from helion_compile.cli.options import command, count, output_file, several


def test_a_count_is_one_or_more():
    assert count("1") == 1 and count("8192") == 8192
    for bad in ("0", "-1", "1.5", "", "x"):
        with pytest.raises(click.BadParameter, match="is no count; give 1 or more"):
            count(bad)


def test_a_file_that_can_be_written(tmp_path, monkeypatch):
    assert output_file(str(tmp_path / "new")) == tmp_path / "new" and not (tmp_path / "new").exists()
    assert str(output_file(os.devnull)) == os.devnull  # its folder cannot be written to
    monkeypatch.chdir(tmp_path)
    assert str(output_file("here")) == "here"


def test_a_file_that_cannot(tmp_path, monkeypatch):
    old = tmp_path / "old"
    old.write_text("")
    writable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != old and writable(path, mode))
    for file, found in (
        (tmp_path, "it is a folder"),
        (old, "it is read-only"),
        (tmp_path / "no" / "new", "there is no folder"),
    ):
        with pytest.raises(click.BadParameter, match=f"{file} cannot be written, {found}"):
            output_file(str(file))


@pytest.mark.parametrize(
    ("words", "sizes", "names"),
    [
        ("a b --m 1 16 -2", [1, 16, -2], ["a", "b"]),
        ("--m 1 16 --flag a", [1, 16], ["a"]),
        ("a --m 1 --m 2", [1, 2], ["a"]),
        ("a --m=1 --flag", [1], ["a"]),
        ("a", [7], ["a"]),
    ],
)
def test_an_option_takes_several_values(words, sizes, names):
    seen = []

    @command("trial", "``trial``: of several values", examples=("trial --m 1 2",))
    @click.argument("names", nargs=-1)
    @several("--m", type=int, default=[7])
    @click.option("--flag", is_flag=True)
    def trial(options):
        seen.append((options.m, options.names))
        return 3

    assert trial(words.split()) == 3 and seen == [(sizes, names)]


def test_a_value_that_is_missing(capsys):
    @command("trial", "of several values")
    @several("--m", type=int)
    def trial(options):
        return 0

    with pytest.raises(SystemExit) as stop:
        trial(["--m"])
    assert stop.value.code == 2 and "Option '--m' requires an argument" in capsys.readouterr().err
