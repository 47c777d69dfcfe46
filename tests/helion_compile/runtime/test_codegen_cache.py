"""Helion's generated code is found again by all that it depends on, and by nothing less."""

import helion.language as hl
import pytest
import torch

import helion_compile
from helion_compile import counters
from helion_compile.runtime import codegen_cache
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
        edited.setitem(scaled.__dict__, "key", "test_sources_scaled@00000000")
        assert traced() == 1
    forget()
    monkeypatch.setenv("HELION_SOMETHING", "1")
    assert traced() == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"code": "x = (", "function": "scaled"}', '{"code": "x = 1"}'])
def test_a_damaged_file_is_no_error(folder, content):
    traced()
    forget()
    for path in folder.glob("*.json"):
        path.write_text(content)
    assert traced() == 1


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
