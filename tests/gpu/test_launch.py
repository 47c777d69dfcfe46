# SPDX-License-Identifier: Apache-2.0
"""Launch plans on a GPU: what they must not get wrong, one thing a test."""

import logging
import threading

import helion
import helion.language as hl
import pytest
import torch
import triton
import triton.language as tl

import helion_compile
from helion_compile import Case, UnpreparedCaptureError, counters
from helion_compile.configs.table import Gpu, Row
from helion_compile.runtime import call_target, dispatch, triton_launch
from helion_compile.runtime.call_site import CallSite
from helion_compile.runtime.plan_key import make_plan_key
from helion_compile.runtime.record import NotReplayable, Plan, record_plan
from tests.support.launch_kernels import mixed, rows_of_view, scale_in_place


@pytest.fixture(autouse=True)
def no_plans():
    for kernel in (mixed, rows_of_view, scale_in_place):
        kernel.plans.clear()


def x_of(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda", dtype=dtype)


def plans_made(fn):
    before = counters.planned
    fn()
    return counters.planned - before


def as_reference(kernel, *args):
    got, expected = kernel(*args), kernel.reference(*args)
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2, equal_nan=True)


def test_a_second_call_replays():
    x = x_of(16, 64)
    assert plans_made(lambda: mixed(x, None, 2.0, 3, False)) == 1
    assert dispatch.replay(mixed, (x, None, 2.0, 3, False)) is not dispatch.NOT_REPLAYED
    as_reference(mixed, x, None, 2.0, 3, False)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: (x, None, -0.0, 1, False),
        lambda x: (x, None, 0.0, True, False),
        lambda x: (x, None, 0.0, 2, False),
        lambda x: (x, None, 0.0, 1, True),
        lambda x: (x, None, 0, 1, False),
        lambda x: (x, x, 0.0, 1, False),
        lambda x: (x.t(), None, 0.0, 1, False),
        lambda x: (x[1:], None, 0.0, 1, False),
        lambda x: (x.flatten()[1:1025].view(16, 64), None, 0.0, 1, False),
        lambda x: (x.half(), None, 0.0, 1, False),
    ],
)
def test_no_plan_serves_another_call(other):
    x = x_of(17, 64)
    args = (x, None, 0.0, 1, False)
    mixed(*args)
    assert dispatch.replay(mixed, other(x)) is dispatch.NOT_REPLAYED
    as_reference(mixed, *other(x))
    as_reference(mixed, *args)


def test_nan_finds_its_plan_again():
    x = x_of(16, 64)
    assert plans_made(lambda: [mixed(x, None, float("nan"), 1, False) for _ in range(3)]) == 1


def test_outputs_in_inference_mode_are_inference_tensors():
    x = x_of(16, 64)
    mixed(x, None, 2.0, 3, False)
    with torch.inference_mode():
        assert mixed(x, None, 2.0, 3, False)[0].is_inference()
    assert not mixed(x, None, 2.0, 3, False)[0].is_inference()


def test_a_view_by_the_host_function_is_planned_and_a_copy_is_not(caplog):
    x = x_of(2, 16, 64)
    assert plans_made(lambda: as_reference(rows_of_view, x)) == 1
    with caplog.at_level(logging.WARNING):
        assert plans_made(lambda: as_reference(rows_of_view, x_of(16, 2, 64).transpose(0, 1))) == 0
    assert "Helion's own host function" in caplog.text


def test_launches_go_to_the_current_stream():
    x, stream = x_of(4096, 4096), torch.cuda.Stream()
    mixed(x, None, 2.0, 3, False)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        got = mixed(x, None, 2.0, 3, False)
        done = torch.cuda.Event()
        done.record()
    assert not done.query()
    torch.cuda.default_stream().synchronize()
    stream.synchronize()
    torch.testing.assert_close(got, mixed.reference(x, None, 2.0, 3, False))


def test_empty_tensors_launch_nothing():
    as_reference(mixed, x_of(0, 64), None, 2.0, 3, False)


def test_an_unprepared_capture_is_refused_and_names_the_case():
    x = x_of(16, 64)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(UnpreparedCaptureError, match="test_launch_mixed.*case.*warm_up"):
        with torch.cuda.graph(graph):
            mixed(x, None, 2.0, 3, False)
    torch.cuda.synchronize()


def test_a_prepared_capture_replays():
    x = x_of(16, 64)
    mixed(x, None, 2.0, 3, False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = mixed(x, None, 2.0, 3, False)
    x.copy_(x_of(16, 64))
    graph.replay()
    torch.testing.assert_close(got, mixed.reference(x, None, 2.0, 3, False))


def test_hooks_set_after_the_plan_was_made_are_called():
    x, seen = x_of(16, 64), []
    mixed(x, None, 2.0, 3, False)

    def hook(about):
        seen.append(about.get()["name"])

    triton.knobs.runtime.launch_enter_hook.add(hook)
    try:
        got = mixed(x, None, 2.0, 3, False)
    finally:
        triton.knobs.runtime.launch_enter_hook.remove(hook)
    assert seen == ["_helion_mixed"]
    torch.testing.assert_close(got, mixed.reference(x, None, 2.0, 3, False))


def test_threads_share_plans():
    x, found = x_of(16, 64), []

    def work():
        torch.cuda.set_device(0)
        found.append(all(torch.equal(mixed(x, None, 2.0, n % 5, False)[1], x + n % 5) for n in range(200)))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6


def tuned_kernel(tmp_path, config, name):
    def reference(x):
        return x * 2

    def case(x):
        return Case(num_tokens=x.size(0))

    def double(x):
        out = torch.empty_like(x)
        for tile in hl.tile(x.size()):
            out[tile] = x[tile] * 2
        return out

    kernel = helion_compile.kernel(double, reference=reference, case=case, name=name)
    kernel.table._folders = (tmp_path,)
    kernel.table.add([Row(Case(num_tokens=16), config)], Gpu.current())
    return kernel


def grid_of(kernel, x):
    """The grid in the source of the plan for ``x``."""
    plan = kernel.plans[make_plan_key((x,), [])]
    return next(line for line in plan.body if "k0_run(" in line).split("k0_function, ")[1].split(", ")[0]


def test_an_edited_table_takes_effect(tmp_path):
    kernel = tuned_kernel(tmp_path, {"block_sizes": [16, 64]}, "test_launch_edited")
    x = x_of(16, 64)
    kernel(x)
    assert grid_of(kernel, x) == "1"
    kernel.table.add([Row(Case(num_tokens=16), {"block_sizes": [4, 16]})], Gpu.current())
    assert kernel.plans[make_plan_key((x,), [])] is None
    torch.testing.assert_close(kernel(x), x * 2)
    assert grid_of(kernel, x) == "16"


def test_a_config_that_does_not_compile_is_passed_over(tmp_path):
    kernel = tuned_kernel(tmp_path, {"block_sizes": [16, 64], "num_warps": 3}, "test_launch_broken")
    x = x_of(16, 64)
    torch.testing.assert_close(kernel(x), x * 2)
    assert any("is skipped" in problem for problem in kernel.table.problems)


def test_tensor_descriptors_are_planned():
    config = helion.Config(block_sizes=[16, 64], indexing="tensor_descriptor")
    x = x_of(64, 256, dtype=torch.bfloat16)
    args = (x, None, 2.0, 3, False)
    host = mixed.helion.bind(args).compile_config(config)
    noted = []
    host(*args, _launcher=lambda kernel, *_, **__: noted.append(kernel))
    assert "make_tensor_descriptor" in noted[0].src
    plan = record_plan(host, args)
    got = plan.call(x.data_ptr())

    def elsewhere():  # Triton's allocator, which the host function sets, is another thread's
        torch.testing.assert_close(plan.call(x.data_ptr()), got)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    torch.testing.assert_close(got, host(*args))


@triton.jit
def _add_one(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, at < n) + 1, at < n)


def _launcher(kernel, grid, *args, **options):
    kernel.run(*args, grid=grid, warmup=False, **options)


def several_launches(x, _launcher=_launcher):
    """x + 2 in two launches through scratch memory, on a view that begins in the middle of ``x``."""
    half = x.view(-1)[x.numel() // 2 :]
    scratch, out = torch.empty_like(half), torch.empty_like(half)
    grid = (triton.cdiv(half.numel(), 128),)
    _launcher(_add_one, grid, half, scratch, half.numel(), 128, num_warps=4)
    _launcher(_add_one, (0,), half, out, half.numel(), 128, num_warps=4)
    _launcher(_add_one, grid, scratch, out, half.numel(), 128, num_warps=4)
    return out


def test_several_launches_with_scratch_memory_and_an_empty_grid():
    x = x_of(64, 34)
    plan = record_plan(several_launches, (x,))
    x.copy_(x_of(64, 34))
    torch.testing.assert_close(plan.call(x.data_ptr()), x.flatten()[x.numel() // 2 :] + 2)


def test_one_tensor_in_two_places_is_planned_as_two():
    x, y = x_of(16, 64), x_of(16, 64)
    mixed(x, x, 2.0, 3, False)
    as_reference(mixed, x, y, 2.0, 3, False)


@pytest.mark.parametrize("missing", ["sizes", "launcher", "run"])
def test_with_other_private_interfaces_helion_launches_with_one_warning(monkeypatch, caplog, missing):
    call_target._warned.clear()
    if missing == "sizes":
        monkeypatch.setattr(triton_launch, "_parameter_sizes", lambda function: [8, 8, 8])
    elif missing == "launcher":
        monkeypatch.delattr(torch._C, "_StaticCudaLauncher")
    else:
        monkeypatch.setattr("triton.knobs.runtime.launch_enter_hook", lambda *_: None)
    x = x_of(16, 64)
    with caplog.at_level(logging.WARNING):
        for n in range(3):
            as_reference(mixed, x, None, 2.0, n, False)
    assert caplog.text.count("slower") == 1


def test_a_call_site_follows_sizes_alignment_and_scalars():
    site = CallSite(mixed.key, 1, 2, lambda x, rows, factor: (x, None, factor, 3, False))
    memory = x_of(4096)
    for rows, shift, factor in [(16, 0, 0.0), (16, 0, -0.0), (16, 1, 0.0), (1, 0, 2.0), (17, 0, 2.0), (16, 0, 0.0)]:
        x = memory[shift : shift + rows * 64].view(rows, 64)
        outputs = torch.empty_like(x), torch.empty_like(x)
        site.call(x, *outputs, rows, factor)
        for got, expected in zip(outputs, mixed.helion(x, None, factor, 3, False), strict=True):
            assert torch.equal(got.view(torch.int32), expected.view(torch.int32))
    assert len(site.plans) == 5


def test_a_compiled_graph_of_any_size_agrees_with_eager():
    @torch.compile(dynamic=True, fullgraph=True)
    def step(x):
        first, second = mixed(x + 1, None, 2.0, 3, False)
        return first * 2, second

    with torch.no_grad():
        for rows in (2, 16, 17, 1, 16):
            x = x_of(rows, 64)
            first, second = mixed.reference(x + 1, None, 2.0, 3, False)
            torch.testing.assert_close(step(x), (first * 2, second))


def test_a_host_function_that_computes_is_not_planned():
    def host(x, _launcher=_launcher):
        return several_launches(x + 1, _launcher)

    with pytest.raises(NotReplayable, match="aten.add"):
        record_plan(host, (x_of(4, 4),))


def test_plans_are_bounded(monkeypatch):
    monkeypatch.setattr(mixed.plans, "_limit", 8)
    memory = x_of(100 * 64)
    for rows in range(1, 60):
        mixed(memory[: rows * 64].view(rows, 64), None, 2.0, 3, False)
    assert len(mixed.plans) + len(mixed.plans._old) <= 16
    assert all(type(plan) is Plan for plan in mixed.plans.values())
