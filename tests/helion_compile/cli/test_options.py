# SPDX-License-Identifier: Apache-2.0
"""What the options of commands take, and the sentence for all else."""

import argparse
import os

import pytest

from helion_compile.cli.options import count, output_file


def test_a_count_is_one_or_more():
    assert count("1") == 1 and count("8192") == 8192
    for bad in ("0", "-1", "1.5", "", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no count; give 1 or more"):
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
        with pytest.raises(argparse.ArgumentTypeError, match=f"{file} cannot be written, {found}"):
            output_file(str(file))
