# SPDX-License-Identifier: Apache-2.0
"""Calls on fake tensors: equal ones run the reference once, and no others are taken for equal."""

import gc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import helion_compile
from helion_compile.graph import fake_cache
from helion_compile.graph.hop import helion_kernel

CALLS = []


def _halves(x, factor, transposed):
    CALLS.append(x.dtype)
    half = x[..., : x.size(-1) // 2] * factor
    return (half.t().contiguous().t() if transposed else half.contiguous()), x.new_zeros(x.size(0), dtype=torch.float32)


@helion_compile.kernel(reference=_halves, name="test_fakes_halves")
def halves(x, factor, transposed):
    raise AssertionError("launched")


def _doubled(x):
    CALLS.append(x.dtype)
    x.mul_(2)


@helion_compile.kernel(reference=_doubled, name="test_fakes_doubled", mutates=("x",))
def doubled(x):
    raise AssertionError("launched")


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def call(mode, x, factor=2.0, transposed=False, kernel=halves):
    args = (x, factor, transposed) if kernel is halves else (x,)
    with mode:
        return helion_kernel(*args, kernel=kernel.key)


def facts(results):
    return [(tuple(map(str, each.shape)), tuple(map(str, each.stride())), each.dtype, each.device) for each in results]


def x_of(mode, *size, **options):
    with mode:
        return torch.empty(*size, **{"dtype": torch.bfloat16, **options})


def test_equal_calls_run_the_reference_once():
    mode = FakeTensorMode()
    first, second = (call(mode, x_of(mode, 4, 6), transposed=True) for _ in range(2))
    assert len(CALLS) == 1 and facts(first) == facts(second)
    assert second[0].stride() == (1, 4) and second[1].dtype == torch.float32
    assert {each.untyped_storage()._cdata for each in first}.isdisjoint(each.untyped_storage()._cdata for each in second)


@pytest.mark.parametrize(
    ("other", "more"),
    [
        (dict(size=(4, 8)), {}),
        (dict(size=(4, 6), dtype=torch.float32), {}),
        (dict(size=(4, 6), device="meta"), {}),
        (dict(size=(6, 4), transpose=True), {}),
        (dict(size=(4, 6)), dict(factor=3.0)),
        (dict(size=(4, 6)), dict(factor=2)),
        (dict(size=(4, 6)), dict(transposed=True)),
    ],
    ids=["size", "dtype", "device", "strides", "number", "type", "flag"],
)
def test_what_differs_is_run(other, more):
    mode = FakeTensorMode()
    call(mode, x_of(mode, 4, 6))
    transpose = other.pop("transpose", False)
    x = x_of(mode, *other.pop("size"), **other)
    results = call(mode, x.t() if transpose else x, **more)
    assert len(CALLS) == 2
    assert facts(results) == facts(_halves(x.t() if transpose else x, 2.0, more.get("transposed", False)))


def test_symbols_are_those_of_the_graph():
    mode = FakeTensorMode(shape_env=ShapeEnv())
    one, two = (mode.from_tensor(torch.empty(rows, 6), static_shapes=False) for rows in (5, 7))
    results = [call(mode, x) for x in (one, two, one)]
    assert len(CALLS) == 2
    assert facts(results[2]) == facts(results[0]) and results[1][0].size(0) is not results[0][0].size(0)
    assert str(results[2][0].size(0)) == str(one.size(0)) and str(results[1][0].size(0)) == str(two.size(0))


def test_writes_are_traced_each_time():
    mode = FakeTensorMode()
    for _ in range(2):
        call(mode, x_of(mode, 4, 6), kernel=doubled)
    assert len(CALLS) == 2


def test_nothing_is_kept_of_a_graph_that_is_gone():
    before = len(fake_cache._known)
    mode = FakeTensorMode()
    call(mode, x_of(mode, 4, 6))
    assert len(fake_cache._known) == before + 1
    del mode
    gc.collect()
    assert len(fake_cache._known) <= before
