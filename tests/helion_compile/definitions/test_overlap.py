# SPDX-License-Identifier: Apache-2.0
"""Which arguments a kernel that writes must not be given: eagerly, from a launch plan, while tracing, in generated code."""

import itertools
import random

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import helion_compile
from helion_compile import KernelArgumentError
from helion_compile.definitions.overlap import Layout, find_shared_byte
from helion_compile.runtime.call_site import CallSite
from tests.support.launch_stub import StubKernel, host_of, install
from tests.support.small_kernels import accumulate


def _write_both(x, y):
    x.add_(1)
    y.mul_(2)


@helion_compile.kernel(reference=_write_both, name="test_write_both", mutates=("x", "y"))
def write_both(x, y):
    raise AssertionError("the reference or a stand-in runs instead")


def _add_to(total, x):
    total += x


@helion_compile.kernel(reference=_add_to, name="test_add_to", mutates=("total",))
def add_to(total, x):
    raise AssertionError("the reference or a stand-in runs instead")


APART = {
    "halves": lambda x: write_both(x[:6], x[6:]),
    "interleaved": lambda x: write_both(x[::2], x[1::2]),
    "columns": lambda x: write_both(x.view(3, 4)[:, :2], x.view(3, 4)[:, 2:]),
    "a tensor as both": lambda x: add_to(x, x),
    "a view as both": lambda x: add_to(x[:6], x[:6]),
    "none": lambda x: write_both(x[:0], x[:0]),
}
TOGETHER = {
    "one tensor": lambda x: write_both(x, x),
    "one view": lambda x: write_both(x[:6], x[:6]),
    "in part": lambda x: write_both(x[:6], x[3:9]),
    "read in part": lambda x: add_to(x[:6], x[3:9]),
    "read in another order": lambda x: add_to(x[:9].view(3, 3), x[:9].view(3, 3).t()),
    "as bits": lambda x: write_both(x, x.view(torch.int32)),
    "with itself": lambda x: add_to(x[:1].expand(6), x[6:]),
}


@pytest.mark.parametrize("call", APART.values(), ids=APART)
def test_disjoint_arguments_are_written_alike_eagerly_and_compiled(call):
    eager, compiled = torch.ones(12), torch.ones(12)
    call(eager)
    torch.compile(call, backend="aot_eager", fullgraph=True)(compiled)
    assert torch.equal(eager, compiled)


@pytest.mark.parametrize("call", TOGETHER.values(), ids=TOGETHER)
def test_overlapping_arguments_are_refused_eagerly_and_while_tracing(call):
    before = torch.ones(12)
    with pytest.raises(KernelArgumentError, match="share memory"):
        call(before)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="share memory"):
        torch.compile(call, backend="aot_eager", fullgraph=True)(before)
    for mode in ("real", "fake", "symbolic"):
        with pytest.raises(KernelArgumentError, match="share memory"):
            make_fx(call, tracing_mode=mode)(before)
    with pytest.raises(KernelArgumentError, match="share memory"):
        call(torch.ones(12, device="meta"))
    assert torch.equal(before, torch.ones(12))


def test_the_sentence_names_both_arguments_and_what_to_do():
    x = torch.ones(12)
    with pytest.raises(
        KernelArgumentError, match=r"test_add_to: arguments 'total' and 'x' share memory.*writes to 'total'.*clone"
    ):
        add_to(x[:6], x[3:9])
    with pytest.raises(KernelArgumentError, match=r"test_write_both: .*writes to 'x' and 'y'"):
        write_both(x, x)


def test_a_graph_for_many_sizes_is_traced_anew_where_they_overlap():
    def function(x, n):
        write_both(x[:n], x[3 : 3 + n])

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    for n in (2, 3):
        eager, x = torch.ones(10), torch.ones(10)
        function(eager, n)
        compiled(x, n)
        assert torch.equal(eager, x)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="share memory"):
        compiled(torch.ones(10), 4)


def test_generated_code_refuses_inputs_that_overlap_in_a_later_call():
    compiled = torch.compile(lambda x, y: write_both(x, y), backend="inductor", fullgraph=True)
    x, y = torch.ones(4), torch.ones(4)
    compiled(x, y)
    assert torch.equal(x, y)
    memory = torch.ones(7)
    with pytest.raises(KernelArgumentError, match="share memory"):
        compiled(memory[:4], memory[3:])


def test_two_tensors_of_one_memory_that_torch_does_not_know():
    memory = torch.ones(12).numpy()
    with pytest.raises(KernelArgumentError, match="share memory"):
        write_both(torch.from_numpy(memory)[:6], torch.from_numpy(memory)[3:9])


@pytest.fixture
def launched(monkeypatch):
    """Calls become plans, with a stand-in for Triton; how many plans were made."""
    made = []

    def hosts(kernel, args, config):
        made.append(config)
        return host_of(StubKernel(3 + 2 * sum(arg.dim() for arg in args)))

    install(monkeypatch, hosts)
    for kernel in (write_both, add_to):
        kernel.plans.clear()
    yield made
    for kernel in (write_both, add_to):
        kernel.plans.clear()


def test_a_plan_is_replayed_for_disjoint_arguments_only(launched):
    memory = torch.ones(64)
    at = lambda start, step=1: memory[start : start + 8 * step : step]  # noqa: E731
    for x, y in ((at(0), at(8)), (at(16), at(0)), (at(0), at(56))):
        write_both(x, y)
    write_both(at(0, 2), at(4, 2).roll(1))
    assert len(launched) == 2
    for x, y in ((at(0), at(0)), (at(0), at(4)), (at(8), at(4))):
        with pytest.raises(KernelArgumentError, match="share memory"):
            write_both(x, y)
    write_both(memory[0:16:2], memory[16:32:2])
    write_both(memory[4:20:2], torch.ones(1024)[4:20:2])
    made = len(launched)
    interleaved = torch.ones(32).view(8, 4)
    write_both(interleaved[:, 0], torch.ones(8, 4)[:, 0])
    add_to(at(0), at(8))
    add_to(at(0), at(0))
    assert len(launched) == made + 2


@pytest.mark.parametrize("offset", [0, 1])
def test_generated_code_compares_the_addresses_of_a_plan(launched, offset):
    site = CallSite(write_both.key, 2, 1, lambda x, y: (x, y))
    memory, out = torch.ones(65)[offset:], torch.empty(8, dtype=torch.int64)
    site.call(memory[:8], memory[8:16], out)
    site.call(memory[16:24], memory[0:8], out)
    made = len(launched)
    with pytest.raises(KernelArgumentError, match="share memory"):
        site.call(memory[:8], memory[4:12], out)
    site.call(memory[:8], memory[8:16], out)
    assert len(launched) == made


def test_a_kernel_that_writes_nothing_may_read_one_memory_twice():
    x = torch.ones(4)
    assert accumulate(x.clone(), x) is not None

    def reads(a, b):
        raise AssertionError("on a CPU the reference runs")

    assert torch.equal(helion_compile.kernel(reads, reference=lambda a, b: a + b)(x, x), x + x)


def _bytes(tensor):
    starts = [tensor.storage_offset() * tensor.element_size()]
    for size, step in zip(tensor.shape, tensor.stride(), strict=True):
        starts = [start + index * step * tensor.element_size() for start in starts for index in range(size)]
    return {start + byte for start in starts for byte in range(tensor.element_size())}


def test_the_search_finds_what_counting_every_byte_finds():
    draw = random.Random(0)
    answers = set()
    for _ in range(500):
        memory = torch.zeros(1024, dtype=torch.uint8)
        one, other = (
            memory.view(draw.choice([torch.uint8, torch.int16, torch.int32])).as_strided(
                [draw.randint(0 if draw.random() < 0.05 else 1, 4) for _ in range(dims)],
                [draw.randint(0, 9) for _ in range(dims)],
                draw.randint(0, 30),
            )
            for dims in (draw.randint(0, 3), draw.randint(0, 3))
        )
        distance = other.storage_offset() * other.element_size() - one.storage_offset() * one.element_size()
        expected = bool(_bytes(one) & _bytes(other))
        assert find_shared_byte(Layout.of(one), Layout.of(other), distance) is expected
        answers.add(expected)
    assert answers == {True, False}


def test_large_interleaved_views_take_few_steps(monkeypatch):
    monkeypatch.setattr("helion_compile.definitions.overlap._MOST_STEPS", 100)
    cache = torch.empty(1000, 2, 64, 128, device="meta")
    views = [
        cache[:, 0],
        cache[:, 1].transpose(1, 2),
        cache[:, 0, :, ::2],
        cache[:, 0, :, 1::2],
        cache[::2, 0],
        cache[1::2, 0],
    ]
    found = {
        (a, b): find_shared_byte(Layout.of(one), Layout.of(other), 4 * (other.storage_offset() - one.storage_offset()))
        for (a, one), (b, other) in itertools.combinations(enumerate(views), 2)
    }
    apart = [pair for pair, shared in found.items() if shared is False]
    assert apart == [(0, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 3), (4, 5)] and None not in found.values()


def test_what_cannot_be_told_in_time_is_refused():
    memory = torch.empty(2**19)
    one = memory.as_strided((100, 100, 100), (997, 1009, 1013))
    with pytest.raises(KernelArgumentError, match="may share memory, which could not be told"):
        add_to(one.as_strided((100, 100, 1), (997, 1009, 1)), one.as_strided((100, 100, 100), (991, 983, 977), 1))
