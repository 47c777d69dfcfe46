# SPDX-License-Identifier: Apache-2.0
"""Stored reports: damaged, planted or too large ones count as none, and nothing of others is touched."""

import gzip
import json
import logging
import os

import pytest
import torch
from torch._inductor.utils import fresh_cache

from helion_compile import private_files, report
from helion_compile.reports import stored

X = torch.randn(8, 64).bfloat16()


def quantize(x):
    scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
    return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


@pytest.fixture(autouse=True)
def empty_cache():
    private_files.log_refusal_once.cache_clear()
    with fresh_cache(), torch._inductor.config.patch(fx_graph_cache=True), torch.no_grad():
        yield


def compile_anew():
    """The report of what is compiled with no memory but Inductor's cache."""
    torch.compiler.reset()
    compiled = torch.compile(quantize, backend="helion")
    compiled(X)
    (graph,) = report(compiled).graphs
    return graph


def files():
    return sorted(stored._folder().glob("*"))


DAMAGE = {
    "removed": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-100]),
    "a byte changed": lambda file: file.write_bytes(file.read_bytes()[:-40] + b"x" + file.read_bytes()[-39:]),
    "a block changed": lambda file: file.write_bytes(file.read_bytes()[:10] + b"\xff" * 9 + file.read_bytes()[19:]),
    "no gzip": lambda file: file.write_bytes(b"report"),
    "no report": lambda file: file.write_bytes(gzip.compress(b'[{"record": 3}]')),
    "a number for a text": lambda file: file.write_bytes(
        gzip.compress(gzip.decompress(file.read_bytes()).replace(b'"fusion":"quant"', b'"fusion":[]'))
    ),
    "a field that is missing": lambda file: file.write_bytes(
        gzip.compress(gzip.decompress(file.read_bytes()).replace(b'"merged"', b'"fused"'))
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_what_is_damaged_counts_as_none(how):
    compile_anew()
    (file,) = files()
    DAMAGE[how](file)
    assert stored.load_reports(file.name.removesuffix(".json.gz")) == [] and files() == []


def edited(**fields):
    """Damage to the first site of the graph."""

    def edit(file):
        (graph,) = json.loads(gzip.decompress(file.read_bytes()))
        graph["record"]["sites"][0].update(fields)
        file.write_bytes(gzip.compress(json.dumps([graph]).encode()))

    return edit


PLACE = {"module": "", "file": "a.py", "line": 1}
WRONG = {
    "null for an object": edited(location=None),
    "true for a text": edited(location={**PLACE, "file": True}),
    "true for a number": edited(merged=True),
    "a text for a number": edited(merged="3"),
    "a fraction for a number": edited(merged=1.5),
    "a number with a thousand digits": edited(merged=10**1000),
    "a number in a list of texts": edited(nodes=["a", 3]),
    "a text for a list": edited(nodes="abc"),
    "a number for a text by name": edited(shapes={"x": 3}),
    "half a surrogate": edited(fusion="\ud800"),
    "an unknown op": edited(ops=[{"op": "Nothing"}]),
    "a list as an op": edited(ops=[["op"]]),
    "one field more": edited(more=1),
    "nested 100 000 deep": lambda file: file.write_bytes(gzip.compress(b"[" * 100_000)),
    "a bomb": lambda file: file.write_bytes(gzip.compress(b"[" + b" " * 2**27 + b"]", 1)),
    "four million lists": lambda file: file.write_bytes(gzip.compress(b"[" + b"[]," * (2**22) + b"0]", 1)),
    "followed by something": lambda file: file.write_bytes(file.read_bytes() + b"more"),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_has_another_type_counts_as_none(how, caplog):
    compile_anew()
    (file,) = files()
    WRONG[how](file)
    assert compile_anew().cached and files() == []
    (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING and "helion" in each.name]
    assert f"the stored report {file} is damaged and passed over" in line and len(line) < 500


def make_pipe(file):
    file.unlink()
    os.mkfifo(file)


def make_link(file):
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
@pytest.mark.parametrize("make", [make_pipe, make_link, lambda file: file.chmod(0o666), lambda file: os.truncate(file, 2**35)])
def test_what_is_no_plain_file_of_ours_counts_as_none(make, caplog):
    compile_anew()
    (file,) = files()
    make(file)
    assert compile_anew().cached and file in files()
    (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING and "helion" in each.name]
    assert "passed over" in line and str(file) in line


def test_nothing_of_others_is_removed(monkeypatch):
    monkeypatch.setattr(stored, "LIMIT", 1)
    graph = compile_anew()
    folder = stored._folder()
    kept = ["notes.json.gz", f"{'a' * 63}.json.gz", f".{'a' * 64}.json.gz.new.tmp"]
    (folder / ("b" * 64 + ".json.gz")).mkdir()
    (folder / ("c" * 64 + ".json.gz")).symlink_to("notes.json.gz")
    orphan = f".{'d' * 64}.json.gz.x_1.tmp"
    for name in [*kept, orphan]:
        (folder / name).write_text("")
        os.utime(folder / name, (1, 1)) if name != kept[-1] else None
    stored.keep_reports("e" * 64, [graph])
    left = {file.name for file in folder.iterdir()}
    assert left == {*kept, *(letter * 64 + ".json.gz" for letter in "bce")}


def link_folder(folder):
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
FOLDERS = {
    "a link": link_folder,
    "open to all": lambda folder: folder.chmod(0o777),
    "of another user": pytest.param(lambda folder: os.chown(folder, 12345, -1), marks=needs_root),
}


@pytest.mark.skipif(os.name != "posix", reason="the mode says nothing of others")
@pytest.mark.parametrize("spoil", FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_is_not_ours_is_left_alone(spoil, monkeypatch, caplog):
    first = compile_anew()
    before = files()
    assert stored._folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(stored, "LIMIT", 0)
    spoil(stored._folder())
    assert stored.load_reports(before[0].name.removesuffix(".json.gz")) == []
    stored.keep_reports("a" * 64, [first])
    assert [file.name for file in files()] == [file.name for file in before]
    lines = [each.getMessage() for each in caplog.records if str(stored._folder()) in each.getMessage()]
    assert [line.partition(":")[0] for line in lines] == ["stored reports are passed over", "reports are not kept"]


def test_a_report_that_is_too_large_is_not_kept(monkeypatch):
    monkeypatch.setattr(stored, "_LARGEST", 1000)
    compile_anew()
    assert files() == []


def test_a_full_disk_leaves_nothing(monkeypatch):
    def fail(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("helion_compile.atomic_write.os.replace", fail)
    assert len(compile_anew().fused) == 1 and files() == []
