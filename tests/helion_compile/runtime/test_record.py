# SPDX-License-Identifier: Apache-2.0
"""What a plan makes of a host function; with a stand-in for Triton, see launch_stub.py."""

import ctypes

import pytest
import torch

from helion_compile.runtime import record
from helion_compile.runtime.record import NotReplayable, list_launches, record_plan
from helion_compile.runtime.triton_launch import LaunchSource
from tests.support.launch_stub import install


class Adds:
    """A "Triton kernel" that adds a number to int64 elements: (from, to, how many, what to add)."""

    __name__ = "adds"
    arg_names = ("source", "target", "n", "number")

    def run(self, *args, grid, warmup, **options):
        self.options = options
        return self


adds = Adds()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    install(monkeypatch, None)

    def launch_source(number, compiled, grid, values, pointers):
        n, add = values[2], values[3]

        def run(source, target):
            array = ctypes.c_int64 * n
            array.from_address(target)[:] = [value + add for value in array.from_address(source)]

        names = [f"a{index} + {shift}" for _, index, shift in pointers]
        return LaunchSource((f"run{number}({', '.join(names)})",), {f"run{number}": run})

    monkeypatch.setattr(record, "launch_source", launch_source)


def launch(source, target, number, _launcher, **options):
    _launcher(adds, (1,), source, target, source.numel(), number, **options)


X = torch.arange(12).view(3, 4)


def replayed(host, *args):
    """The plan's result on other values than those it was recorded with."""
    made = record_plan(host, args)
    others = [arg.clone() for arg in args]
    for other in others:
        other += 100
    expected = [other.clone() for other in others]
    return made.call(*[other.data_ptr() for other in others]), expected


def test_several_launches_through_scratch_memory():
    def host(x, _launcher=None):
        between, out = torch.empty_like(x), torch.empty_like(x)
        launch(x, between, 1, _launcher)
        launch(between, out, 10, _launcher)
        return out

    got, (x,) = replayed(host, X)
    assert torch.equal(got, x + 11)


def test_views_of_inputs_outputs_and_scratch():
    def host(x, _launcher=None):
        out = torch.empty(12, dtype=x.dtype)
        rows = x.view(-1)
        launch(rows[:4], out[8:], 1, _launcher)
        launch(rows[4:], out.view(3, 4)[:2], 2, _launcher)
        return out

    got, (x,) = replayed(host, X)
    assert torch.equal(got, torch.cat([x.flatten()[4:] + 2, x.flatten()[:4] + 1]))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_results_are_none_one_or_a_tuple(mode):
    def none(x, _launcher=None):
        launch(x, x, 1, _launcher)

    def two(x, _launcher=None):
        one, other = torch.empty_like(x), torch.empty(4, 3, dtype=x.dtype).t()
        launch(x, one, 1, _launcher)
        launch(x, other, 2, _launcher)
        return one, other

    with mode():
        x = X.clone()
        assert record_plan(none, (x,)).call(x.data_ptr()) is None
        assert torch.equal(x, X + 1)
        (one, other), (x,) = replayed(two, X)
        assert torch.equal(one, x + 1)
        assert other.stride() == (1, 3)


def test_a_tensor_passed_twice_is_two_arguments():
    def host(x, y, _launcher=None):
        out = torch.empty_like(x)
        launch(y, out, 1, _launcher)
        return out

    made = record_plan(host, (X, X))
    y = X * 2
    assert torch.equal(made.call(X.data_ptr(), y.data_ptr()), y + 1)


def computes(x, _launcher=None):
    launch(x + 1, torch.empty_like(x), 1, _launcher)


def copies(x, _launcher=None):
    out = torch.empty(12, dtype=x.dtype)
    launch(x.t().reshape(-1), out, 1, _launcher)
    return out


def fills(x, _launcher=None):
    out = torch.zeros_like(x)
    launch(x, out, 1, _launcher)
    return out


def reads(x, _launcher=None):
    out = torch.empty_like(x)
    launch(x, out, int(x[0, 0]), _launcher)
    return out


def returns_its_argument(x, _launcher=None):
    return x


def returns_a_part(x, _launcher=None):
    return torch.empty(24, dtype=x.dtype)[:12]


def returns_a_list(x, _launcher=None):
    return [torch.empty_like(x)]


def takes_a_global(x, _launcher=None):
    launch(X, torch.empty_like(x), 1, _launcher)


def launches_by_name(x, _launcher=None):
    _launcher(adds, (1,), x, torch.empty_like(x), 12)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "host, reason",
    [
        (computes, "aten.add"),
        (copies, "neither argument|aten.clone|aten.copy"),
        (fills, "aten.zeros_like|aten.zero_|aten.fill_|aten.full"),
        (reads, "aten._local_scalar_dense|aten.item"),
        (returns_its_argument, "one of its arguments"),
        (returns_a_part, "a part of a tensor"),
        (returns_a_list, "list"),
        (takes_a_global, "neither argument"),
        (launches_by_name, "keyword or default"),
    ],
)
def test_what_a_plan_cannot_explain(host, reason, mode):
    with mode(), pytest.raises(NotReplayable, match=reason):
        record_plan(host, (X + 0,))


def test_options_are_those_of_helions_launcher():
    def host(x, _launcher=None):
        launch(x, x, 1, _launcher, num_warps=4, ptx_options=None)

    record_plan(host, (X + 0,))
    # None would override what the environment sets.
    assert adds.options == {"num_warps": 4, "launch_cooperative_grid": False}
    assert len(list_launches(host, (X + 0,))) == 1
