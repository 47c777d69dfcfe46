# SPDX-License-Identifier: Apache-2.0
"""Inductor: the code generated around kernels that write to their arguments."""

import operator

import pytest
import torch
from torch._inductor.compile_fx import compile_fx
from torch._inductor.utils import run_and_get_code
from torch.fx.experimental.proxy_tensor import make_fx

import helion_compile
from helion_compile.graph.hop import helion_kernel
from helion_compile.graph.lowering import _may_write_in_place
from tests.support.generated_code import calls, copies, generated, square
from tests.support.small_kernels import accumulate, add, bump, fill_optional, split_sign


def on_product(x, w):
    y = torch.mm(x, w)
    bump(y)
    return torch.mm(y, w)


def on_input(x, w):
    bump(x)
    return torch.mm(x, w)


def after_a_reader(x, w):
    y = torch.mm(x, w)
    return accumulate(y, torch.mm(y, w)), y


def after_another_kernel(x, w):
    y = torch.mm(x, w)
    return accumulate(y, add(y, w)), y


def on_result_of_a_kernel(x, w):
    y = add(x, w)
    bump(y)
    return y


def on_one_of_several_results(x, w):
    positive, negative = split_sign(x)
    bump(negative)
    return positive, negative


def two_in_a_row(x, w):
    y = torch.mm(x, w)
    bump(y)
    bump(y)
    return y


def with_result(x, w):
    y = torch.mm(x, w)
    return accumulate(y, x), y


def optional(x, w):
    y = torch.mm(x, w)
    return fill_optional(x, y), y


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        on_product,
        on_input,
        after_a_reader,
        after_another_kernel,
        on_result_of_a_kernel,
        on_one_of_several_results,
        two_in_a_row,
        with_result,
        optional,
    ],
)
def test_in_place_where_nobody_sees_the_old_value(function, dynamic):
    code = generated(function, square(), square(), dynamic=dynamic)
    assert copies(code) == []


def old_value_read_later(x, w):
    y = torch.mm(x, w)
    bumped = y.clone()
    bump(bumped)
    return torch.mm(y, bumped)


def old_input_read_later(x, w):
    old = x.clone()
    bump(x)
    return torch.mm(old, w)


def view_read_later(x, w):
    y = torch.mm(x, w)
    row = y[0].clone()
    bump(y)
    return row, y


def view_read_before_and_later(x, w):
    y = torch.mm(x, w)
    view = y.t()
    before = torch.mm(view, w)
    old = view.clone()
    return accumulate(y, before), y, old


def passed_twice(x, w):
    y = torch.mm(x, w)
    return accumulate(y, y), y


def input_passed_twice(x, w):
    return accumulate(x, x)


def on_a_view(x, w):
    y = torch.mm(x, w)
    bump(y[1:3])
    return y


def on_columns(x, w):
    y = torch.mm(x, w)
    bump(y[:, ::2])
    return y


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        old_value_read_later,
        old_input_read_later,
        view_read_later,
        view_read_before_and_later,
        passed_twice,
        input_passed_twice,
        on_a_view,
        on_columns,
    ],
)
def test_a_copy_where_the_old_value_is_still_needed(function, dynamic):
    code = generated(function, square(), square(), dynamic=dynamic)
    assert copies(code) != []


def test_kernels_that_read_what_they_write_see_the_old_value():
    """Passed the same tensor twice, the kernel reads one memory and writes another, as the functional node means it."""
    seen = []

    def spied(total, x):
        pass

    def reference(total, x):
        seen.append(total.untyped_storage()._cdata == x.untyped_storage()._cdata)
        total += x

    kernel = helion_compile.kernel(spied, reference=reference, mutates=("total",), name="test_seeing_twice")

    def function(x, w):
        y = torch.mm(x, w)
        kernel(y, y)
        return y

    run_and_get_code(torch.compile(function, fullgraph=True), square(), square())
    assert seen[-1] is False


def test_the_node_itself_leaves_its_arguments_alone():
    """In the graph the op is functional, also of a view."""

    def function(x, w):
        y = torch.mm(x, w)
        (bumped,) = helion_kernel(y[1:3], kernel=bump.key)
        return y, bumped

    args = square(), square()
    y, bumped = compile_fx(make_fx(function)(*args), args)(*args)
    torch.testing.assert_close((y, bumped), (torch.mm(*args), torch.mm(*args)[1:3] + 1))


def test_a_result_with_two_names_is_not_overwritten():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    several = graph.call_function(helion_kernel, (x,), {"kernel": split_sign.key})
    one, other = (graph.call_function(operator.getitem, (several, 0)) for _ in range(2))
    node = graph.call_function(helion_kernel, (one,), {"kernel": bump.key})
    graph.output((other, node))
    assert not _may_write_in_place(node, one, 0)
    graph.output_node().args = (node,)
    graph.erase_node(other)
    assert _may_write_in_place(node, one, 0)


def test_a_copy_has_the_strides_that_were_traced():
    seen = []

    def strided(total, x):
        pass

    def reference(total, x):
        seen.append(total.stride())
        total += x

    kernel = helion_compile.kernel(strided, reference=reference, mutates=("total",))

    def function(x, w):
        total = x.t() * 2 + w
        old = total.clone()
        kernel(total, w)
        return total, old

    generated(function, square(), square())
    assert len(set(seen)) == 1


@pytest.mark.parametrize("strides", [(1, 8), (16, 2), (0, 1)])
def test_inputs_of_any_layout(strides):
    base = torch.arange(256.0)
    code = generated(lambda x, w: add(x, w), base.as_strided((8, 8), strides), square())
    assert len(calls(code)) == 1 and copies(code) == []


@pytest.mark.parametrize("strides", [(1, 8), (16, 2)])
def test_mutated_inputs_of_any_layout(strides):
    base = torch.arange(256.0)
    generated(on_input, base.as_strided((8, 8), strides), square())


def test_mutated_input_that_shares_memory_with_another():
    base, expected = torch.arange(64.0), torch.arange(64.0)

    def function(a, b):
        bump(a)
        return b * 1

    with torch.no_grad():
        result = torch.compile(function, fullgraph=True)(base[:32], base[16:48])
        assert torch.equal(result, function(expected[:32], expected[16:48])) and torch.equal(base, expected)


def test_a_view_taken_before_sees_the_new_value():
    def function(x, w):
        y = torch.mm(x, w)
        view = y.view(-1)
        bump(y)
        return view + 0

    generated(function, square(), square())


def test_lazy_readers_of_the_old_value_are_computed_before():
    """`old` is a loop that Inductor would run where its result is needed, behind the call that overwrites its input."""

    def function(x, w):
        y = torch.mm(x, w)
        old = y * 2
        bump(y)
        return old + y

    generated(function, square(), square())
