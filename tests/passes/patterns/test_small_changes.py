# SPDX-License-Identifier: Apache-2.0
"""Every small change to a written graph: it is fused with the bits it has, or it is left alone."""

import copy

import pytest
import torch

from helion_compile.passes.rewrite.fusion_pass import FusionPass
from tests.support import programs, stubs
from tests.support.capture import capture
from tests.support.corpus import quantisers

aten = torch.ops.aten

FORMS = [
    (programs.llama_norm, quantisers.torchao_row),
    (programs.squeezed_norm, quantisers.vllm_token),
    (programs.functional_norm, quantisers.double_scale),
    (programs.weightless_norm, programs.flat_scale_quantize),
]
ARGS = programs.tensor(8, 64), programs.tensor(8, 64, seed=1), programs.tensor(64)


def written(norm, quantize):
    def program(x, residual, weight):
        total = x + residual
        return *quantize(norm(total, weight)), total

    return capture(program, *ARGS).modules[0]


def bits(module):
    module.recompile()
    inputs = ARGS[: len(module.graph.find_nodes(op="placeholder"))]
    leaves = torch.utils._pytree.tree_leaves(module(*[arg.clone() for arg in inputs]))
    return [tensor.contiguous().view(torch.uint8) for tensor in leaves]


def count_fused(module, change):
    """Apply ``change`` to the module's graph; the pass keeps its bits.  The number of sites."""
    changed = copy.deepcopy(module)
    change(changed.graph)
    changed.graph.lint()
    expected = bits(changed)
    fusion_pass = FusionPass([*stubs.ALL, stubs.NORM], strict=True)
    fusion_pass(changed.graph)
    assert all(map(torch.equal, bits(changed), expected)), changed.code
    return len(fusion_pass.records[0].sites)


def named(graph, name):
    return next(node for node in graph.nodes if node.name == name)


@pytest.mark.parametrize(("norm", "quantize"), FORMS, ids=lambda function: function.__name__)
class TestChanges:
    def names(self, graph):
        return [
            node.name
            for node in graph.nodes
            if node.op != "output" and getattr(node.meta["val"], "dtype", None) in stubs.FLOATS
        ]

    def test_a_step_in_between(self, norm, quantize):
        """Another operation behind every node."""
        module = written(norm, quantize)

        def insert(graph, name):
            node = named(graph, name)
            with graph.inserting_after(max([node, *graph.find_nodes(op="placeholder")])):
                negated = graph.call_function(aten.sin.default, (node,))
            negated.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(negated, delete_user_cb=lambda user: user is not negated)

        for name in self.names(module.graph):
            count_fused(module, lambda graph, name=name: insert(graph, name))

    def test_another_reader(self, norm, quantize):
        """Every node is also a result of the graph."""
        module = written(norm, quantize)

        def insert(graph, name):
            output = graph.output_node()
            output.args = ((*output.args[0], named(graph, name)),)

        for name in self.names(module.graph):
            count_fused(module, lambda graph, name=name: insert(graph, name))

    def test_another_constant(self, norm, quantize):
        """Every number in the graph is another one."""
        module = written(norm, quantize)

        def replace(graph, name, index, value):
            named(graph, name).update_arg(index, value)

        numbers = [
            (node.name, index, argument)
            for node in module.graph.nodes
            for index, argument in enumerate(node.args)
            if isinstance(argument, float) or (isinstance(argument, int) and abs(argument) > 2)
        ]
        assert len(numbers) >= 3
        for name, index, number in numbers:
            for value in (number * 2, -number, 0.0):
                count_fused(module, lambda graph, at=(name, index), value=value: replace(graph, *at, value))

    def test_without_a_change_all_is_one_call(self, norm, quantize):
        assert count_fused(written(norm, quantize), lambda graph: None) == 1
