# SPDX-License-Identifier: Apache-2.0
"""The source of a launch, for binaries that only exist as descriptions."""

from types import SimpleNamespace

import pytest
import torch

from helion_compile.runtime import pdl, triton_launch
from helion_compile.runtime.triton_launch import UnknownInterface, define_function, launch_source


def compiled(signature, **metadata):
    metadata = {"num_warps": 4, "shared": 512, "global_scratch_size": 0, "profile_scratch_size": 0, **metadata}
    return SimpleNamespace(
        src=SimpleNamespace(signature=dict(enumerate(signature))), metadata=SimpleNamespace(**metadata), module=None, run=None
    )


@pytest.fixture
def launched(monkeypatch):
    """What torch's launcher was called with."""
    seen = []
    monkeypatch.setattr(
        torch._C, "_StaticCudaLauncher", SimpleNamespace(_launch_kernel=lambda *a: seen.append(a)), raising=False
    )
    monkeypatch.setattr(triton_launch, "_load", lambda compiled: 77)
    monkeypatch.setattr(triton_launch, "_parameter_sizes", lambda function: None)
    return seen


def run(source, *addresses):
    names = {**source.names, "stream": 5, "k0_scratch": 4096}
    define_function("launch", [f"a{n}" for n in range(len(addresses))], source.lines or ["pass"], names)(*addresses)


SIGNATURE = ("*bf16", "*fp32", "constexpr", "i32", "i64", "fp32", "u1", "constexpr")
VALUES = (0, 0, 1, 7, 2**40, -0.0, True, 128)
POINTERS = [(0, 1, 0), (1, 0, 64)]


def test_the_launch_gets_what_the_binary_takes(launched):
    run(launch_source(0, compiled(SIGNATURE), (3, 2, 1), VALUES, POINTERS), 1024, 2048)
    ((function, x, y, z, warps, shared, types, arguments, stream),) = launched
    assert (function, x, y, z, warps, shared, stream) == (77, 3, 2, 1, 4, 512, 5)
    assert types == "OOilfIOO"
    assert arguments == (2048, 1024 + 64, 7, 2**40, -0.0, True, None, None)


def test_scratch_memory_is_for_all_programs(launched):
    source = launch_source(0, compiled(("*fp32",), global_scratch_size=128), (3, 2, 1), (0,), [(0, 0, 0)])
    assert source.scratch == 128 * 6
    run(source, 1024)
    assert launched[0][-2] == (1024, 4096, None)


def test_an_empty_grid_launches_nothing(launched):
    run(launch_source(0, compiled(SIGNATURE), (0, 1, 1), VALUES, POINTERS), 1024, 2048)
    assert not launched


@pytest.mark.parametrize("special", [{"launch_cooperative_grid": True}, {"num_ctas": 2}])
def test_what_torchs_launcher_cannot_do_goes_through_tritons(launched, special, monkeypatch):
    seen = []
    monkeypatch.setattr(
        triton_launch, "_launch_by_triton", lambda compiled, grid, stream, *values: seen.append((grid, stream, values))
    )
    run(launch_source(0, compiled(SIGNATURE, **special), (3, 2, 1), VALUES, POINTERS), 1024, 2048)
    assert seen == [((3, 2, 1), 5, (2048, 1088, *VALUES[2:]))]
    assert not launched


def test_pdl_is_asked_for_in_a_capture_behind_a_kernel_that_takes_part(launched, monkeypatch):
    seen, capture = [], [None]
    monkeypatch.setattr(triton_launch, "_launch_by_triton", lambda *a: seen.append(a))
    monkeypatch.setattr(triton_launch, "_load_by_triton", lambda compiled: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capture[0] is not None)
    monkeypatch.setattr(pdl, "find_dependencies", lambda stream: (capture[0], (len(seen) + len(launched) + others,)))
    monkeypatch.setattr(pdl, "_last", {})
    source = launch_source(0, compiled(SIGNATURE, launch_pdl=True), (3, 2, 1), VALUES, POINTERS)
    plain = launch_source(0, compiled(SIGNATURE), (3, 2, 1), VALUES, POINTERS)
    others = 0  # nodes of other libraries
    run(source, 1024, 2048)
    assert (len(seen), len(launched)) == (0, 1), "eager launches never ask"
    capture[0] = 7
    run(source, 1024, 2048)
    assert (len(seen), len(launched)) == (0, 2), "the first node follows nothing"
    run(source, 1024, 2048)
    assert (len(seen), len(launched)) == (1, 2)
    others += 1
    run(source, 1024, 2048)
    assert (len(seen), len(launched)) == (1, 3), "a library's node stands between"
    run(plain, 1024, 2048)
    run(source, 1024, 2048)
    assert (len(seen), len(launched)) == (1, 5), "a kernel that does not wait stands between"
    with pdl.without_pdl():
        run(source, 1024, 2048)
    assert (len(seen), len(launched)) == (1, 6)
    capture[0] = 8
    run(source, 1024, 2048)
    assert (len(seen), len(launched)) == (1, 7), "the node before is another capture's"


def test_tritons_launcher_is_built_where_loading_will_need_it(monkeypatch):
    from triton.runtime.driver import driver

    built = []
    monkeypatch.setattr(driver, "_active", SimpleNamespace(launcher_cls=lambda src, metadata: built.append((src, metadata))))
    dependent = compiled(SIGNATURE, launch_pdl=True)
    triton_launch.build_launcher(dependent)
    assert built == [(dependent.src, dependent.metadata)]
    triton_launch.build_launcher(compiled(SIGNATURE))
    triton_launch.build_launcher(SimpleNamespace(result=lambda: dependent))  # compiled in the background
    assert len(built) == 1


def test_a_launcher_that_cannot_be_built_is_left_to_the_loading(monkeypatch):
    from triton.runtime.driver import driver

    def broken(src, metadata):
        raise RuntimeError("there is no C compiler")

    monkeypatch.setattr(driver, "_active", SimpleNamespace(launcher_cls=broken))
    triton_launch.build_launcher(compiled(SIGNATURE, launch_pdl=True))


@pytest.mark.parametrize(("arch", "can"), [(80, False), (90, True), (120, True), ("gfx942", False)])
def test_which_kernels_wait(monkeypatch, arch, can):
    from triton.runtime.driver import driver

    monkeypatch.setattr(driver, "_active", SimpleNamespace(get_current_target=lambda: SimpleNamespace(arch=arch)))
    assert pdl.waits_for_previous(SimpleNamespace(src="def k():\n    tl.extra.cuda.gdc_wait()\n")) is can
    assert not pdl.waits_for_previous(SimpleNamespace(src="def k():\n    tl.extra.cuda.gdc_launch_dependents()\n"))


def test_with_hooks_set_later_triton_launches(launched, monkeypatch):
    from triton import knobs

    seen = []
    monkeypatch.setattr(triton_launch, "_launch_by_triton", lambda *a: seen.append(a))
    source = launch_source(0, compiled(SIGNATURE), (3, 2, 1), VALUES, POINTERS)
    monkeypatch.setattr(knobs.runtime.launch_exit_hook, "calls", knobs.runtime.launch_exit_hook.calls)
    knobs.runtime.launch_exit_hook.calls.append(print)
    try:
        run(source, 1024, 2048)
    finally:
        knobs.runtime.launch_exit_hook.calls.remove(print)
    run(source, 1024, 2048)
    assert (len(seen), len(launched)) == (1, 1)


def test_a_binary_with_other_parameters_is_not_launched(launched, monkeypatch):
    monkeypatch.setattr(triton_launch, "_parameter_sizes", lambda function: [8, 8, 4, 8, 4, 4, 8, 8])
    with pytest.raises(UnknownInterface, match=r"\[8, 8, 4, 8, 4, 4, 8, 8\] bytes"):
        launch_source(
            0, compiled(("*bf16", "*fp32", "i32", "i32", "fp32", "u1")), (1, 1, 1), (0, 0, 1, 2, 3.0, True), POINTERS
        )


@pytest.mark.parametrize("missing", ["num_warps", "src"])
def test_a_description_that_lacks_something_is_an_unknown_interface(launched, missing):
    known = compiled(SIGNATURE)
    delattr(known if missing == "src" else known.metadata, missing)
    with pytest.raises(UnknownInterface, match=missing):
        launch_source(0, known, (1, 1, 1), VALUES, POINTERS)
