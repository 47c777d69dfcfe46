# SPDX-License-Identifier: Apache-2.0
"""Which calls share a launch plan, and when plans are dropped; with a stand-in for Triton, see launch_stub.py."""

import enum
import gc
import os
import random
import threading

import pytest
import torch
from torch.autograd import forward_ad

import helion_compile
from helion_compile import KernelArgumentError, counters
from helion_compile.runtime import call_target, plan_cache
from helion_compile.runtime.call_site import CallSite
from helion_compile.runtime.plan_cache import PlanCache
from helion_compile.runtime.record import NotReplayable
from tests.support.launch_stub import StubKernel, X, expected, host_of, same, stub, tensor

pytestmark = pytest.mark.usefixtures("triton")


def test_a_second_call_replays(triton):
    same((X, None, 1, 2.0))
    same((X, None, 1, 2.0))
    same((tensor((4, 8), 32), None, 1, 2.0))
    assert len(triton.made) == 1


@pytest.mark.parametrize(
    "other",
    [
        (X, None, True, 2.0),
        (X, None, 1.0, 2.0),
        (X, None, 2, 2.0),
        (X, None, 1, 2),
        (X, None, 1, -2.0),
        (X, None, "1", 2.0),
        (X, X, 1, 2.0),
        (tensor((4, 8), 1), None, 1, 2.0),
        (tensor((8, 4)), None, 1, 2.0),
        (tensor((4, 8), 0, (1, 4)), None, 1, 2.0),
        (X.to(torch.float64), None, 1, 2.0),
    ],
)
def test_no_plan_serves_another_call(other, triton):
    for args in ((X, None, 1, 2.0), other, (X, None, 1, 2.0), other):
        same(args)
    assert len(triton.made) == 2


def test_the_two_zeros_differ_and_nan_is_found_again(triton):
    for value in (0.0, -0.0, float("nan"), float("nan"), 0.0, -0.0):
        same((X, None, 1, value))
    assert len(triton.made) == 3


def test_random_calls_through_plans_and_call_sites_get_their_own_specialisation(triton):
    draw = random.Random(0)
    sites = {}
    for _ in range(int(os.environ.get("HELION_COMPILE_LAUNCH_CALLS", 4000))):
        shape = draw.choice(((1,), (16,), (4, 8), (1, 16), (16, 1), (3, 5)))
        x = tensor(shape, draw.choice((0, 0, 1, 2, 4)))
        y = draw.choice((None, x, tensor(shape, draw.choice((0, 3)))))
        a = draw.choice((0, 1, 2, 16, 17, 2**31, True, 1.0, "1"))
        b = draw.choice((0.0, -0.0, 1.0, float("inf"), float("nan"), 1e-6))
        if draw.random() < 0.5:
            same((x, y, a, b))
            continue
        tensors = (x,) if y is None else (x, y)
        key = (len(shape), y is None, type(a), a)
        if key not in sites:
            # As in a graph of any size, with b a symbol too.
            with_y = lambda x, y, *symbols, a=a: (x, y, a, symbols[-1])  # noqa: E731
            without = lambda x, *symbols, a=a: (x, None, a, symbols[-1])  # noqa: E731
            sites[key] = CallSite(stub.key, len(tensors), 1, without if y is None else with_y)
        out = torch.empty(8, dtype=torch.int64)
        symbols = [number for t in tensors for number in (*t.shape, *t.stride())]
        sites[key].call(*tensors, out, *symbols, b)
        words = expected((x, y, a, b), out)
        assert out[: len(words)].tolist() == words
    assert len(triton.made) < 3000


def test_numbers_of_derived_types_are_taken_for_plain_ones(triton):
    class Use(enum.IntEnum):
        TWO = 2

    class Name(str, enum.Enum):
        A = "a"

    stub(X, None, 2, "a")
    stub(X, None, Use.TWO, Name.A)
    assert len(triton.made) == 1


def test_what_a_call_may_not_take_is_not_replayed():
    stub(X, None, 1, 2.0)
    with pytest.raises(KernelArgumentError, match="lazily"):
        stub(torch._neg_view(X), None, 1, 2.0)
    leaf = X.clone().requires_grad_()
    with torch.no_grad():
        stub(leaf, None, 1, 2.0)
    with pytest.raises(helion_compile.GradientError):
        stub(leaf, None, 1, 2.0)
    with forward_ad.dual_level(), pytest.raises(helion_compile.GradientError):
        stub(forward_ad.make_dual(X, X), None, 1, 2.0)


def test_while_tracing_nothing_is_replayed():
    stub(X, None, 1, 2.0)
    from torch.fx.experimental.proxy_tensor import make_fx

    for pre_dispatch in (False, True):
        graph = make_fx(lambda x: stub(x, None, 1, 2.0), pre_dispatch=pre_dispatch)(X).graph
        assert any("helion_kernel" in str(node.target) for node in graph.nodes)


def test_equal_calls_in_a_graph_and_outside_share_a_plan(triton):
    def site():
        return CallSite(stub.key, 1, 1, lambda x, rows: (x, None, 1, 2.0))

    first, second = site(), site()
    out = torch.empty(8, dtype=torch.int64)
    first.call(X, out, 4)
    second.call(X, out, 4)
    assert out[: len(expected((X, None, 1, 2.0), out))].tolist() == expected((X, None, 1, 2.0), out)
    stub(X, None, 1, 2.0)
    assert len(triton.made) == 1
    second.call(torch.ones(5, 8), out, 5)
    assert len(triton.made) == 2


def test_an_output_that_is_not_aligned_is_copied_into(monkeypatch):
    """A plan's kernels are compiled for the alignment of memory that was just allocated."""

    def hosts(kernel, args, config):
        host = host_of(StubKernel(9))
        return lambda *args, _launcher=None: host(*args, _launcher=_launcher) if _launcher else torch.arange(8)

    monkeypatch.setattr(call_target, "make_host_function", hosts)
    out = torch.empty(9, dtype=torch.int64)[1:]
    assert out.data_ptr() % 16 == 8
    stub(X, None, 1, 2.0)  # whose plan a site with equal arguments would share
    CallSite(stub.key, 1, 1, lambda x: (x, None, 1, 2.0)).call(X, out)
    assert out.tolist() == list(range(8))


def test_what_no_plan_explains_goes_through_the_host_function_with_one_warning(monkeypatch, caplog):
    call_target._warned.clear()

    def record(host, args, zeroed_workspace):
        raise NotReplayable("a reason")

    monkeypatch.setattr(call_target, "record_plan", record)
    monkeypatch.setattr(call_target, "make_host_function", lambda *_: lambda *args: torch.arange(8))
    before = counters.unplanned
    site = CallSite(stub.key, 1, 1, lambda x: (x, None, 1, 2.0))
    out = torch.empty(8, dtype=torch.int64)
    for _ in range(3):
        assert stub(X, None, 1, 2.0).tolist() == list(range(8))
        site.call(X, out)
        assert out.tolist() == list(range(8))
    assert caplog.text.count("a reason") == 1
    # Within a capture what is known already may run.
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    site.call(X, out)
    assert counters.unplanned == before + 2


def test_empty_tensors_run_the_reference():
    assert stub(tensor((0, 8)), None, 1, 2.0).tolist() == [-1] * 8


def test_threads_make_one_plan(triton):
    barrier = threading.Barrier(4)
    errors = []

    def work():
        try:
            barrier.wait()
            for _ in range(100):
                same((X, None, 1, 2.0))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(triton.made) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_no_plans_even_if_one_was_being_made():
    stub(X, None, 1, 2.0)
    site = CallSite(stub.key, 1, 1, lambda x: (x, None, 1, 2.0))
    site.call(X, torch.empty(8, dtype=torch.int64))
    begun, end = threading.Event(), threading.Event()

    def hold():
        with plan_cache.plan_lock():
            begun.set()
            end.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait()
    child = os.fork()
    if child == 0:
        free = plan_cache.plan_lock().acquire(blocking=False)
        os._exit(0 if free and not stub.plans and not site.plans and site.call == site.find else 1)
    end.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stub.plans


def test_plans_are_bounded(monkeypatch):
    store = PlanCache()
    monkeypatch.setattr(store, "_limit", 10)
    for n in range(1000):
        store.keep(n, str(n), store.generation)
        assert store[0] == "0"  # used all the time
    assert len(store) + len(store._old) <= 20
    assert store[999] == "999"
    assert store[500] is None


def test_call_sites_do_not_outlive_their_graph():
    site = CallSite(stub.key, 1, 1, lambda x: (x, None, 1, 2.0))
    site.call(X, torch.empty(8, dtype=torch.int64))
    gone = []
    import weakref

    weakref.finalize(site, gone.append, True)
    del site
    gc.collect()
    stub.plans.clear()
    assert gone


def test_a_parameter_of_a_derived_type_is_launched_as_a_plain_tensor():
    class Weight(torch.nn.Parameter):  # as inference servers have them
        pass

    weight = Weight(torch.randn(8), requires_grad=False)
    same((weight, tensor((8,)), 1, 2))
