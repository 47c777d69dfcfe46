# SPDX-License-Identifier: Apache-2.0
"""Helion's generated code is found again by all that it depends on, and by nothing less."""

import hashlib
import inspect
import json
import os

import helion.language as hl
import pytest
import torch
import triton

import helion_compile
from helion_compile import counters, private_files
from helion_compile.runtime import codegen_cache, shipped_code
from helion_compile.runtime.call_target import make_host_function


def _scaled(x, weight, factor):
    return x * weight * factor


@helion_compile.kernel(reference=_scaled, name="test_sources_scaled")
def scaled(x, weight, factor: hl.constexpr):
    """[M, K] * [K]; K is built into the code."""
    m, k = x.size()
    k = hl.specialize(k)
    out = torch.empty([m, k], dtype=x.dtype, device=x.device)
    for rows in hl.tile(m):
        out[rows, :] = x[rows, :] * weight[:][None, :] * factor
    return out


CONFIG = {"block_sizes": [4]}


def arguments(m=8, k=32, factor=2.0, dtype=torch.float32):
    return torch.empty(m, k, dtype=dtype), torch.empty(k, dtype=dtype), factor


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HELION_COMPILE_CACHE_DIR", str(tmp_path))
    forget()
    return tmp_path


def forget():
    """As in another process."""
    codegen_cache._hosts.clear()
    codegen_cache._places_of.clear()
    codegen_cache._circumstances.cache_clear()
    shipped_code.forget()
    scaled.helion.reset()


def traced(*args, config=CONFIG):
    before = counters.traced
    host = make_host_function(scaled, arguments(*args), config)
    assert host.__name__ == "scaled"
    return counters.traced - before


def test_another_process_traces_nothing():
    assert traced() == 1
    forget()
    assert traced() == 0


def test_another_size_that_is_no_constant_of_the_code_needs_no_tracing():
    traced(8)
    forget()
    assert traced(9) == traced(1000) == 0


@pytest.mark.parametrize(
    "args, config",
    [
        ((8, 64), CONFIG),
        ((8, 32, 3.0), CONFIG),
        ((8, 32, 2), CONFIG),
        ((8, 32, 2.0, torch.bfloat16), CONFIG),
        ((), {"block_sizes": [8]}),
        ((), None),
    ],
)
def test_what_the_code_depends_on_is_traced_anew(args, config):
    traced()
    forget()
    assert traced(*args, config=config) == 1
    forget()
    assert traced(*args, config=config) == traced() == 0


def test_an_edited_kernel_or_another_environment_is_traced_anew(monkeypatch):
    traced()
    forget()
    with monkeypatch.context() as edited:
        edited.setitem(scaled.__dict__, "config_fingerprint", "00000000")
        assert traced() == 1
    forget()
    monkeypatch.setenv("HELION_SOMETHING", "1")
    assert traced() == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "# {}\nx = 1", '# {"function": "scaled"}\nx = 1', "x = (", "\0"])
def test_a_damaged_file_is_no_error(folder, content):
    traced()
    forget()
    for path in folder.iterdir():
        path.write_text(content)
    assert traced() == 1


def test_code_that_is_cut_off_is_not_run(folder):
    """At the end of a line, where it may still be Python."""
    traced()
    forget()
    (file,) = folder.glob("*.py")
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    assert traced() == 1


def plant(folder):
    """Code of the right name that must not run."""
    (file,) = folder.glob("*.py")
    code = "raise SystemExit('planted code ran')\n"
    facts = {"function": "scaled", "sha256": hashlib.sha256(code.encode()).hexdigest()}
    file.write_text(f"# {json.dumps(facts)}\n{code}")
    return file


def make_link(file):
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def make_pipe(file):
    file.unlink()
    os.mkfifo(file)


def open_to_all(mode):
    return lambda folder, file: folder.chmod(mode)


def own_folder(folder, file):
    os.chown(folder, 12345, -1)


needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
OTHERS = {
    "may write the file": lambda folder, file: file.chmod(0o666),
    "of the group may write the file": lambda folder, file: file.chmod(0o660),
    "may write to the folder": open_to_all(0o777),
    "may write to the folder, which has a sticky bit": open_to_all(0o1777),
    "made a link": lambda folder, file: make_link(file),
    "made a pipe": lambda folder, file: make_pipe(file),
    "own the file": pytest.param(lambda folder, file: os.chown(file, 12345, -1), marks=needs_root),
    "own the folder": pytest.param(own_folder, marks=needs_root),
}
FOLDERS = [own_folder, *(OTHERS[name] for name in OTHERS if name.startswith("may write to the folder"))]


@pytest.mark.skipif(os.name != "posix", reason="the mode says nothing of others")
@pytest.mark.parametrize("spoil", OTHERS.values(), ids=OTHERS)
def test_what_others_may_have_written_is_not_run(spoil, folder, caplog):
    traced()
    spoil(folder, plant(folder))
    private_files.log_refusal_once.cache_clear()
    forget()
    assert traced() == 1
    forget()
    assert traced() == int(spoil in FOLDERS)  # a file of that name was replaced
    (line,) = [each.getMessage() for each in caplog.records if "generated code is not run from there" in each.getMessage()]
    assert str(folder) in line


def test_a_folder_that_is_made_is_the_users_alone(folder, monkeypatch):
    old = os.umask(0)
    try:
        monkeypatch.setenv("HELION_COMPILE_CACHE_DIR", str(folder / "made" / "below"))
        assert traced() == 1
    finally:
        os.umask(old)
    assert (folder / "made" / "below").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (folder / "made" / "below").iterdir()} == {0o600}


def test_a_chosen_folder_may_be_a_link(folder, monkeypatch):
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    monkeypatch.setenv("HELION_COMPILE_CACHE_DIR", str(folder / "link"))
    assert traced() == 1
    forget()
    assert traced() == 0


def test_triton_finds_the_source_of_kept_code(folder):
    traced()
    forget()
    assert traced() == 0
    (host,) = codegen_cache._hosts.values()
    kernel = next(value for value in vars(inspect.getmodule(host)).values() if isinstance(value, triton.JITFunction))
    assert "tl.load" in kernel.src and "def scaled" in inspect.getsource(host)


def test_a_folder_that_cannot_be_written_is_no_error(folder, monkeypatch):
    monkeypatch.setenv("HELION_COMPILE_CACHE_DIR", str(folder / "file" / "below"))
    (folder / "file").write_text("")
    assert traced() == 1


def test_code_that_was_specialised_in_an_unknown_way_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(codegen_cache, "_places", lambda bound: None)
    traced()
    assert not list(folder.iterdir())


def test_other_settings_of_helion_are_traced_anew(monkeypatch):
    traced()
    forget()
    monkeypatch.setattr(scaled.helion.settings, "fast_math", not scaled.helion.settings.fast_math)
    assert traced() == 1


@pytest.fixture
def shipped(tmp_path_factory, monkeypatch):
    """The folder of tables that come with the package, to which the test's kernel belongs."""
    tables = tmp_path_factory.mktemp("shipped")
    monkeypatch.setattr(shipped_code, "shipped_folder", lambda: tables)
    monkeypatch.setattr(shipped_code, "BUILT_IN", scaled.name.rpartition("::")[0])
    return tables


def packed(folder):
    """Pack what the cache holds, and empty it."""
    written = shipped_code.pack_code(folder, {codegen_cache.identify(scaled): scaled.name})
    for file in folder.iterdir():
        file.unlink()
    forget()
    return written


def test_shipped_code_needs_no_tracing_and_no_cache(folder, shipped):
    traced()
    traced(8, 64)
    ((file, codes, size),) = packed(folder)
    assert file.parent.parent == shipped and codes == 2 and size == file.stat().st_size < 10_000
    assert traced() == traced(9) == traced(8, 64) == 0
    assert not list(folder.iterdir())
    (host, *_) = codegen_cache._hosts.values()
    assert "def scaled" in inspect.getsource(host)


@pytest.mark.parametrize("args, config", [((8, 128), CONFIG), ((8, 32, 3.0), CONFIG), ((), {"block_sizes": [8]}), ((), None)])
def test_what_is_not_shipped_is_traced_and_kept(args, config, folder, shipped):
    traced()
    packed(folder)
    assert traced(*args, config=config) == 1
    forget()
    assert traced(*args, config=config) == 0


def plant_version(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "0.0.0")


def plant_edit(monkeypatch):
    monkeypatch.setitem(scaled.__dict__, "config_fingerprint", "00000000")


def plant_setting(monkeypatch):
    monkeypatch.setattr(scaled.helion.settings, "fast_math", not scaled.helion.settings.fast_math)


def plant_environment(monkeypatch):
    monkeypatch.setenv("HELION_SOMETHING", "1")


def plant_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.99.0")


@pytest.mark.parametrize("plant", [plant_version, plant_edit, plant_setting, plant_environment, plant_torch])
def test_stale_shipped_code_is_not_run(plant, folder, shipped, monkeypatch):
    traced()
    packed(folder)
    with monkeypatch.context() as planted:
        plant(planted)
        assert traced() == 1
    forget()
    assert traced() == 0


def test_another_build_of_torch_has_the_same_code(folder, shipped, monkeypatch):
    traced()
    packed(folder)
    monkeypatch.setattr(torch, "__version__", f"{torch.__version__.partition('+')[0]}+cu999")
    assert traced() == 0


def test_packing_keeps_what_was_packed_and_drops_old_versions(folder, shipped, monkeypatch):
    traced()
    packed(folder)
    traced(8, 64)
    assert packed(folder)[0].codes == 2
    plant_edit(monkeypatch)
    forget()
    traced()
    assert packed(folder)[0].codes == 1


@pytest.mark.parametrize("content", [b"", b"no archive", b"\xfd7zXZ\x00"])
def test_a_damaged_pack_is_no_error(content, folder, shipped, caplog):
    traced()
    ((file, _, _),) = packed(folder)
    file.write_bytes(content)
    forget()
    assert traced() == 1
    assert "is passed over, and code is generated anew" in caplog.text


def test_the_kernels_of_users_have_no_shipped_code(folder, shipped, monkeypatch):
    traced()
    packed(folder)
    monkeypatch.setattr(shipped_code, "BUILT_IN", "helion_compile")
    assert traced() == 1
