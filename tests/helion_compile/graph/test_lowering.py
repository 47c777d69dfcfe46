# SPDX-License-Identifier: Apache-2.0
"""Inductor: the code generated around a kernel.

Matrix products are its neighbours wherever only the code matters: they are calls too, so no C++ is compiled.
"""

import operator
import re
from unittest import mock

import pytest
import torch
from torch._inductor.compile_fx import compile_fx
from torch._inductor.utils import run_and_get_code
from torch.fx.experimental.proxy_tensor import make_fx

import helion_compile
from helion_compile.graph.hop import helion_kernel
from helion_compile.graph.lowering import _may_write_in_place
from tests.support.small_kernels import accumulate, add, affine, bump, fill_optional, last_dim_contiguous, split_sign

CALL = re.compile(r"^ +helion_(\w+?)_op\d+(?:\.\w+)?\((.*)\)$", re.MULTILINE)
BUFFER = re.compile(r"^ +(buf\d+) = (empty_strided_cpu|reinterpret_tensor|buf\d+)\b(.*)$", re.MULTILINE)


def generated(function, *args, dynamic=False, **options):
    """The Python code that Inductor makes of ``function``, after checking that it gives what eager mode gives."""
    expected_args = torch.utils._pytree.tree_map_only(torch.Tensor, _copy, args)
    expected = function(*expected_args)
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, options=options or None)
    result, (code,) = run_and_get_code(compiled, *args)
    torch.testing.assert_close((result, args), (expected, expected_args))
    return code


def _copy(tensor):
    """Of the same layout, also where elements share memory."""
    memory = tensor.untyped_storage().clone()
    return torch.empty(0, dtype=tensor.dtype).set_(memory, tensor.storage_offset(), tensor.size(), tensor.stride())


def calls(code):
    """(kernel, names of the tensors passed) for each call of a kernel, in order."""
    return [(name, re.findall(r"\b(?:buf|arg)\w+", arguments)) for name, arguments in CALL.findall(code)]


def copies(code):
    """Everything that Inductor computes by itself; next to matrix products and our kernels, copies alone."""
    return re.findall(r"^ +(cpp_\w+|triton_\w+|aten\.clone\S*|aten\.copy\S*)\(", code, re.MULTILINE)


def square(rows=8, columns=8):
    return torch.randn(rows, columns)


# --- functional kernels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [False, True])
def test_one_call_a_node_on_buffers_that_inductor_allocates_and_nothing_copied(dynamic):
    def function(x, w):
        positive, negative = split_sign(torch.mm(x, w))
        return torch.mm(add(positive, negative), w)

    code = generated(function, square(), square(), dynamic=dynamic)
    (first, (_, positive, negative)), (second, (*inputs, out)) = calls(code)
    assert (first, second) == ("test_split_sign", "test_add")
    assert inputs[:2] == [positive, negative]
    allocated = {name for name, how, _ in BUFFER.findall(code) if how == "empty_strided_cpu"}
    assert {positive, negative} <= allocated
    assert copies(code) == []
    assert "torch.empty" not in code.split("def call")[1].split("runner = ")[0]


def test_results_and_inputs_of_the_graph_are_passed_as_they_are():
    code = generated(lambda x: add(x, x), square())
    ((_, (x, _, out)),) = calls(code)
    assert x == "arg0_1" and f"return ({out}, )" in code
    assert copies(code) == []


def test_memory_of_dead_buffers_is_used_again():
    def function(x, w):
        return torch.mm(add(torch.mm(x, w), w), w)

    code = generated(function, square(), square())
    assert "# reuse" in code
    assert len(re.findall("empty_strided_cpu\\(\\(", code.split("def call")[1])) == 2  # of four intermediate results


def test_neighbours_are_fused_among_themselves_and_the_results_are_right():
    code = generated(lambda x: add(x + 1, x * 2) * 3, square())
    assert len(calls(code)) == 1
    assert len(copies(code)) == 2  # one loop before, one after


def test_views_are_passed_without_a_copy():
    code = generated(lambda x, w: affine(torch.mm(x, w).t()[1:]), square(), square())
    assert len(calls(code)) == 1 and copies(code) == []


def test_strides_are_those_that_were_traced():
    """`check_supported` saw these strides; Inductor, free to choose, would lay the copy out as its input is."""
    seen = []
    kernel = spy(lambda x: seen.append(x.stride()) or x + 1)
    generated(lambda x: kernel((x + 1).contiguous()), square(4, 6).t())
    assert set(seen) == {(4, 1)}
    assert len(calls(generated(lambda x: last_dim_contiguous((x + 1).contiguous()), square(4, 6).t()))) == 1


def test_strides_with_gaps_and_of_expanded_tensors_are_kept():
    seen = []
    kernel = spy(lambda x: seen.append(x.stride()) or x + 1)
    generated(lambda x, w: kernel(torch.mm(x, w)[:, 2:5]), square(), square())
    assert set(seen) == {(8, 1)}
    seen.clear()
    generated(lambda x: kernel((x + 1)[:, 2:5]), square())  # of values that Inductor would not keep as a whole
    assert set(seen) == {(8, 1)}
    seen.clear()
    generated(lambda x: kernel((x * 2).expand(5, 8)), square(1, 8))
    assert set(seen) == {(0, 1)}


def spy(reference):
    """A kernel whose reference tells what it was called with."""

    def spied(x):
        pass

    return helion_compile.kernel(spied, reference=lambda x: reference(x))


def test_a_result_that_nobody_reads_is_computed_into_a_buffer():
    code = generated(lambda x: split_sign(x)[1], square())
    ((_, (_, positive, negative)),) = calls(code)
    assert f"return ({negative}, )" in code and copies(code) == []


def test_a_call_whose_results_nobody_reads_is_dropped():
    assert calls(generated(lambda x, w: (add(x, w), torch.mm(x, w))[1], square(), square())) == []


def test_a_result_that_is_returned_twice():
    def function(x):
        y = add(x, x)
        return y, y.t(), y

    assert len(calls(generated(function, square()))) == 1


def test_constants_of_every_kind():
    def function(x):
        return affine(x, None, float("inf"), 1, torch.float64), affine(x, scale=-1e-6), affine(x, x, 2, repeat=x.size(0))

    assert len(calls(generated(function, square().abs()))) == 3
    assert len(calls(generated(function, square(5, 3).abs(), dynamic=True))) == 3


def test_empty_and_single_rows():
    for rows in (0, 1):
        generated(lambda x: add(x, x), torch.ones(rows, 3))
        torch.compiler.reset()


# --- sizes that vary --------------------------------------------------------------------------------------------------


def test_the_real_sizes_reach_the_kernel_not_a_hint():
    seen = []
    kernel = spy(lambda x: seen.append(x.size(0)) or torch.cat([x, x]))
    function = torch.compile(lambda x: kernel(x), fullgraph=True, dynamic=True)
    for rows in (5, 7, 64, 1000):
        seen.clear()
        assert function(torch.ones(rows, 2)).shape == (2 * rows, 2)
        assert seen[-1] == rows and type(seen[-1]) is int
    assert len(seen) == 1  # the last call ran the reference once and traced nothing


def test_the_config_is_chosen_by_the_real_sizes():
    """What `pick` gets at run time are the arguments of the call, whose case is asked for anew."""
    cases = []
    function = torch.compile(lambda x: add(x, x) + 0, fullgraph=True, dynamic=True)
    with mock.patch(
        "helion_compile.runtime.reference.run_reference", lambda kernel, args: cases.append(kernel.case(*args)) or args[0]
    ):
        for rows in (5, 17, 300):
            function(torch.ones(rows, 2))
    assert [case.fields["num_tokens"] for case in cases] == [5, 17, 300]


def test_symbols_of_strides_and_numbers_are_passed_along():
    function = torch.compile(lambda x, n: affine(x[:, ::2], x[:, ::2], 1.0, n), fullgraph=True, dynamic=True)
    for rows, columns, n in ((4, 6, 3), (5, 10, 4), (9, 8, 5)):
        x = square(rows, columns)
        torch.testing.assert_close(function(x, n), x[:, ::2] * (1 + n))


# --- kernels that write to their arguments ----------------------------------------------------------------------------


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


# --- around it --------------------------------------------------------------------------------------------------------


def test_inside_control_flow():
    def function(x):
        return torch.cond(x.sum() > 0, lambda x: add(x, x), lambda x: affine(x, None, 3.0), (x,))

    for x in (torch.ones(3, 3), -torch.ones(3, 3)):
        assert torch.equal(torch.compile(function, fullgraph=True)(x), function(x))


def test_training_around_a_detached_call():
    w = square().requires_grad_()

    def function(x):
        return torch.mm(add(x, x), w).sum()

    x = square()
    torch.compile(function, fullgraph=True)(x).backward()
    torch.testing.assert_close(w.grad, (2 * x).t() @ torch.ones(8, 8))


def test_a_call_that_only_writes_to_an_input_is_kept():
    """A mutation that only the caller sees keeps its call."""
    code = generated(lambda x: bump(x), square())
    assert [name for name, _ in calls(code)] == ["test_bump"] and copies(code) == []
