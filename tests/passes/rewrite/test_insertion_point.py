# SPDX-License-Identifier: Apache-2.0
"""passes.rewrite.insertion_point and passes.rewrite.edits: where a replacement stands, and when it can stand nowhere."""

import copy
import dataclasses

import pytest
import torch

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import describe
from helion_compile.passes.match.chain import find_chains
from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.rewrite.edits import Edits
from helion_compile.passes.rewrite.fusion_pass import FusionPass
from helion_compile.passes.rewrite.insertion_point import InsertionPoints
from helion_compile.passes.semantics import Norm, Quantize
from tests.support import programs, stubs
from tests.support.capture import capture
from tests.support.corpus import quantisers

aten = torch.ops.aten

X, RESIDUAL, WEIGHT = programs.tensor(8, 64), programs.tensor(8, 64, seed=1), programs.tensor(64)

WITH_RESIDUAL = dataclasses.replace(
    stubs.NORM_QUANTIZE,
    check=lambda chain: None if chain[Norm].op.residual else chain.refuse(RefusalKind.OP, "no residual", "one fuses"),
)


def misplaced(graph):
    """Why the chain with the residual in it can stand nowhere."""
    before = str(graph)
    (choices,) = find_chains(match_graph(graph), (Norm, Quantize), used=())
    assert [chain[Norm].op.residual for chain in choices] == [True, False]
    refusal = InsertionPoints(graph).find(choices[0])
    assert str(graph) == before and refusal.kind is RefusalKind.INSERTION_POINT
    return str(refusal)


def unprofitable(chain):
    return chain.refuse(RefusalKind.UNPROFITABLE, "it is fast", "a slow one fuses")


def fused(graph, *fusions):
    fusion_pass = FusionPass(fusions or stubs.ALL, strict=True)
    fusion_pass(graph)
    assert [site.fusion for site in fusion_pass.records[0].sites] == ["norm_quantize"]
    assert not fusion_pass.records[0].refusals


def named(graph, target, index=0):
    return [node for node in graph.nodes if node.target is target][index]


def results(module, *args):
    """What a graph module returns and leaves in its inputs, as bytes."""
    args = [arg.clone() for arg in args]
    tensors = [*torch.utils._pytree.tree_leaves(module(*args)), *args]
    return [tensor.contiguous().view(torch.uint8) for tensor in tensors]


def same_results(module, rewritten, *args):
    rewritten.recompile()
    module.recompile()
    return all(map(torch.equal, results(module, *args), results(rewritten, *args)))


def test_the_sum_is_read_before_the_weight_is_there():
    def program(x, residual, weight):
        total = x + residual
        early = total.sin()
        late = weight * early.cos().sum(1).max()
        return quantisers.torchao_row(programs.llama_norm(x + residual, late)), early

    # Here the weight does not come from the chain's own sum: `x + residual` is written a second time.
    module = capture(program, X, RESIDUAL, WEIGHT).modules[0]
    graph = module.graph
    first, second = named(graph, aten.add.Tensor, 0), named(graph, aten.add.Tensor, 1)
    first.append(second)
    tan = graph.create_node("call_function", aten.tan.default, (second,))
    tan.meta["val"] = second.meta["val"]
    second.append(tan)
    output = graph.output_node()
    output.args = ((*output.args[0], tan),)
    graph.lint()
    before = copy.deepcopy(module)

    fused(graph, WITH_RESIDUAL)
    order = list(graph.nodes)
    assert order.index(named(graph, stubs.norm_quantize)) < order.index(named(graph, aten.tan.default))
    assert same_results(before, module, X, RESIDUAL, WEIGHT)


def test_an_input_that_depends_on_an_output():
    def program(x, residual, weight):
        total = x + residual
        return quantisers.torchao_row(programs.llama_norm(total, weight * total.sin().mean(0)))

    graph = capture(program, X, RESIDUAL, WEIGHT).graph
    assert misplaced(graph) == (
        f"{describe(named(graph, aten.sin.default))}, on which an input depends, is computed from the chain's own "
        "output aten.add.Tensor (add), and one call cannot come both before and after it; with inputs that do not depend on "
        "its outputs it fuses"
    )
    # Without the addition in it the chain depends on nothing of its own.
    fused(graph, stubs.NORM_QUANTIZE)


def program(x, residual, weight):
    total = x + residual
    return quantisers.torchao_row(programs.llama_norm(total, weight)), total


class TestWrites:
    """Something is written to between the chain's first and last node, or outside of them."""

    def graph_module(self):
        return capture(program, X, RESIDUAL, WEIGHT).modules[0]

    def write(self, module, into, behind, value=None):
        graph = module.graph
        with graph.inserting_after(behind):
            source = graph.call_function(aten.neg.default, (into if value is None else value,))
        source.meta["val"] = into.meta["val"]
        with graph.inserting_after(source):
            write = graph.call_function(aten.copy_.default, (into, source))
        write.meta["val"] = into.meta["val"]
        graph.lint()
        return copy.deepcopy(module)

    @pytest.mark.parametrize("name", ["x", "weight", "sum", "out"])
    def test_between(self, name):
        module = self.graph_module()
        graph = module.graph
        placeholders = graph.find_nodes(op="placeholder")
        into = {
            "x": placeholders[0],
            "weight": placeholders[-1],
            "sum": named(graph, aten.add.Tensor),
            "out": named(graph, aten.abs.default).args[0],
        }[name]
        self.write(module, into, behind=named(graph, aten.amax.default))
        reason = misplaced(graph)
        assert reason.startswith("aten.copy_.default (copy__default) writes to ")
        assert reason.endswith("without the write in between it fuses")
        before = copy.deepcopy(module)
        fusion_pass = FusionPass([stubs.NORM_QUANTIZE], strict=True)
        fusion_pass(graph)
        # The addition alone reads x, and before the write: the chain without it fuses all the same.
        assert len(fusion_pass.records[0].sites) == (name == "x")
        assert len(fusion_pass.records[0].refusals) == (name != "x")
        assert same_results(before, module, X, RESIDUAL, WEIGHT)

    def test_through_a_view(self):
        module = self.graph_module()
        graph = module.graph
        x = graph.find_nodes(op="placeholder")[0]
        with graph.inserting_after(x):
            view = graph.call_function(aten.select.int, (x, 0, 0))
        view.meta["val"] = x.meta["val"][0]
        self.write(module, view, behind=named(graph, aten.amax.default))
        assert "writes to the graph input arg0_1" in misplaced(graph)

    @pytest.mark.parametrize("behind", ["before", "after"])
    def test_outside(self, behind):
        module = self.graph_module()
        graph = module.graph
        x = graph.find_nodes(op="placeholder")[0]
        last = [node for node in graph.nodes if node.op != "output"][-1]
        if behind == "before":
            place = graph.find_nodes(op="placeholder")[-1]
        else:
            place = last
        before = self.write(module, x, behind=place)
        fused(graph)
        assert same_results(before, module, X, RESIDUAL, WEIGHT)

    @pytest.mark.parametrize("written", [False, True])
    def test_copies_around_one_are_not_merged_where_the_chain_is_kept(self, written):
        def program(x):
            return quantisers.torchao_row(x), quantisers.torchao_row(x)

        module = capture(program, X).modules[0]
        graph = module.graph
        if written:
            self.write(module, graph.find_nodes(op="placeholder")[0], behind=named(graph, aten.amax.default))
        before = copy.deepcopy(module)
        fusion_pass = FusionPass([dataclasses.replace(stubs.QUANTIZE, check=unprofitable)], strict=True)
        fusion_pass(graph)
        assert [kept.merged for kept in fusion_pass.records[0].kept] == [2]
        assert len(graph.find_nodes(op="call_function", target=aten.amax.default)) == 1 + written
        assert same_results(before, module, X)

    def test_a_copy_that_is_read_before_the_first_is_not_shared(self):
        """scale2, its reader, scale1, q1, q2, in a chain that stays."""

        def program(x):
            one, other = quantisers.torchao_row(x), quantisers.torchao_row(x)
            return (*one, one[1].sin()), (*other, other[1].sin())

        module = capture(program, X).modules[0]
        graph = module.graph
        results = graph.output_node().args[0]
        (q2, scale2, reader), (q1, scale1, _) = sorted((results[:3], results[3:]), key=lambda each: each[1])
        scale2.append(reader)
        q1.append(q2)
        graph.lint()
        assert scale2 < reader < scale1 < q1 < q2
        before = copy.deepcopy(module)
        fusion_pass = FusionPass([dataclasses.replace(stubs.QUANTIZE, check=unprofitable)], strict=True)
        fusion_pass(graph)
        assert [kept.merged for kept in fusion_pass.records[0].kept] == [2]
        graph.lint()
        assert same_results(before, module, X)

    def test_a_copy_in_another_layout_is_not_shared(self):
        def program(x):
            return quantisers.torchao_row(x), quantisers.torchao_row(x)

        graph = capture(program, X).graph
        q, scale = graph.output_node().args[0][2:]
        scale.meta["val"] = scale.meta["val"].new_empty_strided((8, 1), (1, 8))
        FusionPass([dataclasses.replace(stubs.QUANTIZE, check=unprofitable)], strict=True)(graph)
        first, second = graph.output_node().args[0][:2], graph.output_node().args[0][2:]
        assert first[0] is second[0] and first[1] is not second[1] is scale

    def test_of_something_else(self):
        module = capture(lambda other, *args: (program(*args), other.sin()), X + 1, X, RESIDUAL, WEIGHT).modules[0]
        graph = module.graph
        other = named(graph, aten.sin.default).args[0]
        before = self.write(module, other, behind=named(graph, aten.amax.default))
        fused(graph)
        assert same_results(before, module, *self.in_order(graph))

    def test_on_the_way_of_a_reader_to_a_late_input(self):
        """The reader of the sum would move behind the late weight, and with that behind the write to what it reads."""

        def program(x, residual, weight, other):
            total = x + residual
            return quantisers.torchao_row(programs.llama_norm(total, weight.sin())), total * other.cos()

        module = capture(program, X, RESIDUAL, WEIGHT, X + 1).modules[0]
        graph = module.graph
        other, late = named(graph, aten.cos.default), named(graph, aten.sin.default)
        total = named(graph, aten.add.Tensor)
        (early,) = [node for node in graph.nodes if node.target is aten.mul.Tensor and other in node.args]
        total.prepend(other)
        total.append(early)
        self.write(module, other, behind=early)
        named(graph, aten.copy_.default).append(late)
        graph.lint()
        assert "writes to aten.cos.default" in misplaced(graph)
        before = copy.deepcopy(module)
        FusionPass([stubs.NORM_QUANTIZE], strict=True)(graph)
        given = [
            WEIGHT if len(node.meta["val"].shape) == 1 else (X, RESIDUAL, X + 1)[index % 3]
            for index, node in enumerate(graph.find_nodes(op="placeholder"))
        ]
        assert same_results(before, module, *given)

    def in_order(self, graph):
        tensors = {0: X, 1: RESIDUAL}
        return [
            WEIGHT if len(node.meta["val"].shape) == 1 else tensors.get(index, X + index)
            for index, node in enumerate(graph.find_nodes(op="placeholder"))
        ]


class TestEdits:
    def graph(self):
        return capture(lambda x: (x.sin().cos().tan() + x.exp(),), X).graph

    def test_undo_takes_back_everything(self):
        graph = self.graph()
        before = str(graph)
        edits = Edits(graph)
        exp, sin = named(graph, aten.exp.default), named(graph, aten.sin.default)
        new = edits.insert(exp, aten.relu.default, (exp,), {})
        edits.replace_uses(sin, new, keep=())
        edits.move_readers_after([new])
        graph.lint()
        assert str(graph) != before
        edits.undo()
        assert str(graph) == before
        graph.lint()

    def test_moving_readers_keeps_the_order_of_what_it_moves(self):
        graph = self.graph()
        edits = Edits(graph)
        order = ["cos", "tan", "add"]
        exp = named(graph, aten.exp.default)
        if exp < named(graph, aten.sin.default):
            named(graph, aten.tan.default).append(exp)
        new = edits.insert(exp, aten.relu.default, (exp,), {})
        edits.replace_uses(named(graph, aten.sin.default), new, keep=())
        edits.move_readers_after([new])
        graph.lint()
        assert [node.name for node in graph.nodes if node.name in order] == order

    def test_erase_leaves_alone_what_is_read(self):
        graph = self.graph()
        before = str(graph)
        with pytest.raises(ValueError, match="sin cannot be erased, it is read by cos"):
            Edits(graph).erase([named(graph, aten.sin.default)])
        assert str(graph) == before
