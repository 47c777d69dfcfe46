# SPDX-License-Identifier: Apache-2.0
"""Whatever happens while a table file is written, no row is lost or half-written, and the user sees sentences."""

import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

import filelock
import pytest

from helion_compile.configs import files
from helion_compile.configs.table import ConfigError, ConfigTable
from tests.support.table_files import ASKED, H200, SOUND, WHOLE, numbers, put, row

fork = multiprocessing.get_context("fork")


def test_a_file_that_is_no_table_is_set_aside_not_overwritten(tmp_path):
    path = put(tmp_path, WHOLE[:-1])
    table = ConfigTable("quant", folders=[tmp_path])
    table.add([row(1)], H200)
    path.write_bytes(b"broken again")
    table.add([row(2)], H200)
    aside = {file.read_bytes() for file in path.parent.glob("nvidia_h200.json.damaged-*")}
    assert aside == {WHOLE[:-1], b"broken again"} and numbers(tmp_path) == [2]


def test_a_linked_table_is_written_where_it_lies(tmp_path):
    real = put(tmp_path / "elsewhere", [SOUND])
    for linked in (real, tmp_path / "nowhere" / "yet.json"):
        own = tmp_path / "own" / "quant" / "nvidia_h200.json"
        own.parent.mkdir(parents=True, exist_ok=True)
        own.unlink(missing_ok=True)
        own.symlink_to(linked)
        assert ConfigTable("quant", folders=[tmp_path / "own"]).add([row(1)], H200) == own
        assert own.is_symlink() and 1 in numbers(tmp_path / "own") and b'"padding"' in linked.read_bytes()


def test_a_pipe_in_a_tables_place_is_an_error(tmp_path):
    kernel = tmp_path / "quant"
    kernel.mkdir()
    os.mkfifo(kernel / "nvidia_h200.json")
    with pytest.raises(ConfigError, match="no rows were written to .*it is no file"):
        ConfigTable("quant", folders=[tmp_path]).add([row(1)], H200)


def test_damaged_rows_outlive_a_write(tmp_path):
    path = put(tmp_path, [{"case": 3, "note": "mine"}, SOUND])
    ConfigTable("quant", folders=[tmp_path]).add([row(1)], H200)
    assert {"case": 3, "note": "mine"} in json.loads(path.read_text()) and numbers(tmp_path) == [1, 8]


def add_some(folder, worker):
    table = ConfigTable("quant", folders=[folder])
    for step in range(4):
        table.add([row(100 * worker + step)], H200)


def test_sixteen_processes_write_one_table_without_losing_a_row(tmp_path):
    workers = [fork.Process(target=add_some, args=(tmp_path, worker)) for worker in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 16
    assert numbers(tmp_path) == sorted(100 * worker + step for worker in range(16) for step in range(4))


def add_and_die(folder, at, reached):
    """Kills this process at line event ``at`` of the module that writes, before the line runs."""
    left = at

    def trace(frame, event, arg):
        nonlocal left
        if frame.f_code.co_filename != files.__file__:
            return None
        left -= event == "line"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    table = ConfigTable("quant", folders=[folder])
    sys.settrace(trace)
    files.write_rows(folder, "quant", H200.slug, [row(2), row(3, "new")])
    sys.settrace(None)
    reached.value = 1
    del table


def test_kill_at_every_line_of_a_write_leaves_the_old_rows_or_all_the_new(tmp_path):
    reached = fork.Value("i", 0)
    seen = set()
    for at in range(1000):
        folder = tmp_path / str(at)
        ConfigTable("quant", folders=[folder]).add([row(1), row(3, "old")], H200)
        writer = fork.Process(target=add_and_die, args=(folder, at, reached))
        writer.start()
        writer.join(60)
        found = {each.case["num_tokens"]: each.config["name"] for each in ConfigTable("quant", folders=[folder]).rows(H200)}
        assert found in ({1: "row", 3: "old"}, {1: "row", 2: "row", 3: "new"})
        seen.add(len(found))
        ConfigTable("quant", folders=[folder]).add([row(4)], H200)  # the lock is free again
        assert set(numbers(folder)) == {*found, 4}
        assert not list(folder.rglob("*.tmp"))
        if reached.value:
            break
        assert writer.exitcode == -signal.SIGKILL
    assert reached.value and at > 40 and seen == {2, 3}


@pytest.mark.parametrize("written", [0, 1, 100, 4095])
def test_kill_within_the_write_of_the_bytes(tmp_path, monkeypatch, written):
    ConfigTable("quant", folders=[tmp_path]).add([row(1)], H200)

    def fsync(descriptor):
        os.ftruncate(descriptor, written)
        os.kill(os.getpid(), signal.SIGKILL)

    def write():
        monkeypatch.setattr(os, "fsync", fsync)
        ConfigTable("quant", folders=[tmp_path]).add([row(n) for n in range(2, 50)], H200)

    writer = fork.Process(target=write)
    writer.start()
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL and numbers(tmp_path) == [1]
    ConfigTable("quant", folders=[tmp_path]).add([row(2)], H200)
    assert numbers(tmp_path) == [1, 2] and not list(tmp_path.rglob("*.tmp"))


def add_with_little_room(folder, room, answer):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # the kernel refuses more bytes, as on a full disk
    try:
        ConfigTable("quant", folders=[folder]).add([row(n) for n in range(2, 50)], H200)
    except ConfigError as error:
        answer.put(str(error))


@pytest.mark.parametrize("room", [0, 512, 4096])
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, room):
    ConfigTable("quant", folders=[tmp_path]).add([row(1)], H200)
    answer = fork.Queue()
    writer = fork.Process(target=add_with_little_room, args=(tmp_path, room, answer))
    writer.start()
    sentence = answer.get(timeout=60)
    writer.join(60)
    assert sentence == (
        f"no rows were written to {tmp_path}/quant/nvidia_h200.json: File too large; its old rows are untouched, and "
        "HELION_COMPILE_CONFIG_DIR chooses another folder"
    )
    assert writer.exitcode == 0 and numbers(tmp_path) == [1] and not list(tmp_path.rglob("*.tmp"))


def add_without_rights(folder, answer):
    if os.geteuid() == 0:  # root may write anywhere
        os.setuid(65534)
    try:
        ConfigTable("quant", folders=[folder]).add([row(1)], H200)
    except ConfigError as error:
        answer.put((str(error), numbers(folder)))


def test_a_read_only_folder_is_one_sentence_and_still_read():
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        path = put(folder, [SOUND])
        path.parent.chmod(0o555)
        answer = fork.Queue()
        writer = fork.Process(target=add_without_rights, args=(folder, answer))
        writer.start()
        sentence, rows = answer.get(timeout=60)
        writer.join(60)
        path.parent.chmod(0o755)
    assert sentence == (
        f"no rows were written to {path}: the folder is read-only; its old rows are untouched, and "
        "HELION_COMPILE_CONFIG_DIR chooses another folder"
    )
    assert rows == [8]


@pytest.mark.parametrize("folder", ["/proc/tables", "/dev/null/tables"])
def test_a_folder_that_cannot_be_made_is_one_sentence(folder):
    with pytest.raises(ConfigError, match="no rows were written to .*; .* HELION_COMPILE_CONFIG_DIR chooses another folder"):
        ConfigTable("quant", folders=[folder]).add([row(1)], H200)
    assert ConfigTable("quant", folders=[folder]).pick(ASKED, H200).origin == "default"


def test_a_lock_that_is_never_freed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.2)
    path = put(tmp_path, [SOUND])
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        with pytest.raises(ConfigError, match="another process has held its lock for 0.2 s"):
            ConfigTable("quant", folders=[tmp_path]).add([row(1)], H200)
