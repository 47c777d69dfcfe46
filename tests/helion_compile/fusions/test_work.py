# SPDX-License-Identifier: Apache-2.0
"""How much the pass does for a layer, in calls: seconds would be those of the machine."""

import logging
import sys
from unittest import mock

import pytest
import torch

from helion_compile.compat import FakeTensorMode
from helion_compile.frontend.options import Options
from helion_compile.passes.account import records
from helion_compile.passes.ir import fake_results
from tests.support.repeated_layers import repeat_layer

MOST = 250  # calls of Python functions a node, those of torch among them


def rewritten(graph):
    """The pass's record of this graph, and the calls of Python functions that it took."""
    fusion_pass = Options(strict=True).fusion_pass(logging.getLogger("test"))
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        fusion_pass(graph)
    finally:
        sys.setprofile(None)
    return fusion_pass.records[-1], calls


@pytest.fixture(scope="module")
def counted():
    rewritten(repeat_layer(1))  # what is made once a process
    return {layers: rewritten(repeat_layer(layers)) for layers in (5, 20)}


def test_all_layers_are_fused(counted):
    record, _ = counted[20]
    assert record.summary().startswith("40 x norm_quant, 40 x norm_rope, 20 x activation_quant, 20 x quant, ")


def test_calls_are_linear_in_nodes_and_few(counted):
    (few, calls), (many, more) = counted[5], counted[20]
    assert more / many.nodes < 1.05 * calls / few.nodes
    assert more / many.nodes < MOST


def test_code_is_printed_when_it_is_asked_for():
    with mock.patch.object(records, "print_code") as printer:
        record, _ = rewritten(repeat_layer(1))
    printer.assert_not_called()
    assert "norm_quant" in record.after and "norm_quant" not in record.before
    compile(record.after, "graph", "exec")


def test_layers_after_the_first_dispatch_few_fake_tensors():
    """FakeTensorMode takes 0.1 ms to find what a view looks like."""

    def dispatched(layers):
        graph = repeat_layer(layers)
        with mock.patch.object(FakeTensorMode, "dispatch", autospec=True, side_effect=FakeTensorMode.dispatch) as dispatch:
            rewritten(graph)
        return dispatch.call_count

    assert dispatched(3) - dispatched(2) < 10  # of some 70 views and calls


def test_layers_share_the_views_of_their_tables():
    def views(layers):
        graph = repeat_layer(layers)
        rewritten(graph)
        return len(graph.find_nodes(op="call_function", target=torch.ops.aten.slice.Tensor))

    assert views(3) - views(2) == views(2) - views(1) == 5  # of the layer's own scales


@pytest.mark.parametrize(
    "target, arguments",
    [
        (torch.ops.aten.reshape.default, ([8, -1],)),
        (torch.ops.aten.slice.Tensor, (2, 1, 9, 2)),
        (torch.ops.aten.select.int, (-1, 3)),
        (torch.ops.aten.permute.default, ([2, 0, 1],)),
        (torch.ops.aten.expand.default, ([3, -1, -1],)),
        (torch.ops.aten.unsqueeze.default, (-1,)),
    ],
)
@pytest.mark.parametrize("permuted", [False, True])
def test_a_view_is_as_fake_tensor_mode_makes_it(target, arguments, permuted):
    mode = FakeTensorMode()
    first = 1 if target is torch.ops.aten.expand.default else 4
    value = mode.from_tensor(torch.empty(first, 8, 16, dtype=torch.bfloat16))
    value = value.transpose(1, 2) if permuted else value
    found = fake_results.compute_fake(mode, target, (value, *arguments), {})
    with mode:
        wanted = target(value, *arguments)
    told = lambda each: (each.shape, each.stride(), each.storage_offset(), each.dtype, each.device, type(each))  # noqa: E731
    assert told(found) == told(wanted)
    shares = lambda each: each.untyped_storage()._cdata == value.untyped_storage()._cdata  # noqa: E731
    assert shares(found) == shares(wanted)
