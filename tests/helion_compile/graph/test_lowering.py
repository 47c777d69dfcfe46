# SPDX-License-Identifier: Apache-2.0
"""Inductor: the code generated around a kernel.

Matrix products are its neighbours wherever only the code matters: they are calls too, so no C++ is compiled.
"""

import re
from unittest import mock

import pytest
import torch

import helion_compile
from tests.support.generated_code import BUFFER, calls, copies, generated, square
from tests.support.small_kernels import add, affine, bump, last_dim_contiguous, split_sign

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
