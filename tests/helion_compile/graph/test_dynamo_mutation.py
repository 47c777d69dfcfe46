# SPDX-License-Identifier: Apache-2.0
"""Dynamo: kernels that write to their arguments, in a compiled function."""

import pytest
import torch

from tests.support.graphs import compiled, kernel_nodes
from tests.support.small_kernels import accumulate, bump, fill_optional

X = torch.arange(6.0).reshape(2, 3)


def on_input(x):
    bump(x)
    return x * 2


def on_intermediate(x):
    y = x + 1
    bump(y)
    return y


def on_view(x):
    bump(x[1:])
    return x.sum()


def on_view_of_intermediate(x):
    y = x * 2
    bump(y.t()[0])
    return y


def twice(x):
    bump(x)
    bump(x)


def with_result(x):
    doubled = accumulate(x, x + 1)
    return doubled, x


def old_value_kept(x):
    old = x.clone()
    bump(x)
    return old, x


def optional_given(x):
    out = torch.zeros_like(x)
    return fill_optional(x, out), out


def optional_missing(x):
    return fill_optional(x)


MUTATING = [
    on_input,
    on_intermediate,
    on_view,
    on_view_of_intermediate,
    twice,
    with_result,
    old_value_kept,
    optional_given,
    optional_missing,
]


@pytest.mark.parametrize("function", MUTATING)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_mutation_reaches_what_it_reaches_in_eager_mode(function, dynamic, backend):
    x, expected_x = torch.arange(12.0).reshape(4, 3), torch.arange(12.0).reshape(4, 3)
    expected = function(expected_x)
    result = torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)(x)
    torch.testing.assert_close((result, x), (expected, expected_x), rtol=0, atol=0)


def test_a_mutating_call_is_one_node_and_a_copy_for_each_written_argument():
    (graph,) = compiled(on_input, X.clone())
    assert len(kernel_nodes(graph)) == 1
    assert sum("copy_" in str(node.target) for node in graph.graph.nodes) == 1
