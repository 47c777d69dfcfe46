# SPDX-License-Identifier: Apache-2.0
"""A file is written whole or not at all, and nothing is left beside it."""

import os
import threading

import pytest

from helion_compile.atomic_write import write_atomically


def test_a_file_is_made_and_replaced(tmp_path):
    file = tmp_path / "table.json"
    write_atomically(file, b"one", durable=False)
    write_atomically(file, b"two", durable=True)
    assert file.read_bytes() == b"two" and os.listdir(tmp_path) == ["table.json"]
    assert file.stat().st_mode & 0o777 == 0o600
    write_atomically(file, b"three", mode=0o644, durable=True)
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_where_it_fails_the_old_file_stays_alone(tmp_path, monkeypatch, step, error):
    file = tmp_path / "table.json"
    file.write_bytes(b"old")

    def fail(*args):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_atomically(file, b"new", mode=0o644, durable=True)
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["table.json"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    full = tmp_path / "cache.py"
    real = open

    def open_full(descriptor, mode):
        file = real(descriptor, mode)
        return real("/dev/full", "wb") if file.close() is None else file

    monkeypatch.setattr("builtins.open", open_full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(full, b"content", durable=False)
    assert os.listdir(tmp_path) == []


def test_a_link_is_replaced_and_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"somebody else's")
    (tmp_path / "file").symlink_to(other)
    write_atomically(tmp_path / "file", b"ours", durable=True)
    assert other.read_bytes() == b"somebody else's" and (tmp_path / "file").read_bytes() == b"ours"


def test_content_reaches_the_disk_before_its_name_and_the_folder_after(tmp_path, monkeypatch):
    steps = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *args: steps.append("replace") or replace(*args))
    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append("fsync") or fsync(descriptor))
    write_atomically(tmp_path / "file", b"content", durable=True)
    assert steps == ["fsync", "replace", "fsync"]
    steps.clear()
    write_atomically(tmp_path / "file", b"what can be made again", durable=False)
    assert steps == ["replace"]


def test_writers_at_once_leave_one_of_their_files(tmp_path):
    file = tmp_path / "file"
    contents = [bytes([65 + number]) * 10_000 for number in range(8)]
    threads = [
        threading.Thread(target=write_atomically, args=(file, content), kwargs={"durable": False}) for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_bytes() in contents and os.listdir(tmp_path) == ["file"]
