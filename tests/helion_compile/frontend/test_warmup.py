# SPDX-License-Identifier: Apache-2.0
"""Which calls a warm-up makes and prepares; with a stand-in for Triton, see launch_stub.py."""

import sys

import pytest
import torch

import helion_compile
from helion_compile import Case, counters
from helion_compile.runtime import dispatch
from helion_compile.runtime.call_site import CallSite
from tests.support.launch_stub import StubKernel, expected, host_of, install

warm_up = helion_compile.warm_up
module = sys.modules["helion_compile.frontend.warmup"]


def _reference(x, y, a):
    return torch.full((8,), -1)


@helion_compile.kernel(reference=_reference, case=lambda x, *_: Case(num_tokens=x.size(0)), name="test_warm_up_stub")
def stub(x, y, a):
    raise AssertionError("the stand-in is launched instead")


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    kernels = {}

    def hosts(kernel, args, config):
        count = 4 + 2 * sum(arg.dim() for arg in args if torch.is_tensor(arg))
        return host_of(kernels.setdefault(count, StubKernel(count)))

    install(monkeypatch, hosts)
    monkeypatch.setattr(module, "make_host_function", hosts)
    stub.plans.clear()
    return kernels


def inputs(tokens):
    return torch.zeros(tokens, 4), None, 2.0


def test_calls_that_were_warmed_up_make_no_plan():
    done = warm_up(stub, [1, 8, 16], inputs)
    assert done.tokens == (1, 8, 16)
    assert done.counted.planned == 3
    before = counters.copy()
    for tokens in (1, 8, 16):
        out = stub(*inputs(tokens))
        assert out[:2].tolist() == expected(inputs(tokens), out)[:2]
    assert counters == before


def test_tokens_may_be_one_number_or_come_one_by_one():
    assert warm_up(stub, (2**power for power in range(3)), inputs).tokens == (1, 2, 4)
    assert warm_up(stub, 8, inputs).tokens == (8,)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_no_table_has_sizes_between():
    assert warm_up(stub, [16], inputs, between=True).tokens == (1, 15, 16)


def test_a_model_runs_with_its_reference_and_its_call_sites_are_prepared():
    site = CallSite(stub.key, 1, 1, lambda x, rows: (x, None, 2.0))
    seen = []

    def model(x):
        out = torch.empty(8, dtype=torch.int64)
        site.call(x, out, x.size(0))
        seen.append(out[0].item())
        stub(x, None, 3.0)

    warm_up(model, [4, 5], lambda tokens: {"x": torch.zeros(tokens, 4)})
    assert seen == [-1, -1]
    before = counters.copy()
    model(torch.zeros(5, 4))
    assert counters == before
    assert seen[2] != -1


def test_between_adds_what_triton_tells_apart(monkeypatch):
    monkeypatch.setattr(module, "_sizes_in_tables", lambda: {100, 5000})
    done = warm_up(stub, [16, 64, 256], inputs, between=True)
    assert done.tokens == (1, 15, 16, 63, 64, 96, 100, 255, 256)


def test_unaligned_arguments_are_compiled_both_ways():
    done = warm_up(stub, [8], lambda tokens: (torch.zeros(tokens, 4), torch.zeros(4), 2.0), unaligned=("x", "y"))
    assert done.counted.planned == 4


def test_afterwards_calls_are_no_longer_only_noted():
    with pytest.raises(ZeroDivisionError):
        warm_up(lambda x: 1 / 0, [1], lambda tokens: (1,))
    stub(*inputs(8))
    assert dispatch.replay(stub, inputs(8)) is not dispatch.NOT_REPLAYED


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((stub, [1]), "test_warm_up_stub without inputs"),
        ((stub, [], inputs), r"tokens=\[\]"),
        ((stub, [0], inputs), r"tokens=\[0\]"),
        ((stub, iter(()), inputs), r"tokens=\[\]"),
        ((stub, 2.5, inputs), r"tokens=\[2.5\]"),
        ((3, [1]), "a model, a HelionKernel or a dict"),
        ((lambda x: x, [1]), "function without inputs"),
        (({stub: inputs}, [1], inputs), "each kernel's inputs in the dict"),
    ],
)
def test_what_it_cannot_warm_up_is_said(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        warm_up(*arguments)


def test_an_unknown_unaligned_name_is_said():
    with pytest.raises(ValueError, match="names z, but the parameters are x, y, a"):
        warm_up(stub, [1], inputs, unaligned=("z",))


def test_an_unaligned_name_of_no_tensor_is_said():
    with pytest.raises(ValueError, match=r"unaligned=\('x', 'a'\) names a, which is a float and no tensor"):
        warm_up(stub, [1], inputs, unaligned=("x", "a"))
    warm_up(stub, [1], inputs, unaligned=("y",))  # left out in this call
