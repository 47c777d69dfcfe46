# SPDX-License-Identifier: Apache-2.0
"""passes.rewrite.fusion_pass: choosing, failing, logging and identity."""

import copy
import dataclasses
import logging
import pickle
import subprocess
import sys

import pytest
import torch

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.rewrite.fusion_pass import FusionError, FusionPass
from helion_compile.passes.semantics import Matmul, Norm, NormRounding, Quantize
from tests.support import ROOT, programs, stubs
from tests.support.capture import capture
from tests.support.checks import PROJECTIONS, by_name, calls, projections, rewritten
from tests.support.corpus import quantisers

CAST_THEN_SCALE = NormRounding.CAST_THEN_SCALE

LOGGER = "helion_compile.passes"


class TestChoosing:
    args = programs.tensor(8, 64), programs.tensor(64)

    @staticmethod
    def program(x, weight):
        return quantisers.torchao_row(programs.llama_norm(x, weight))

    def run(self, fusions, **options):
        return rewritten(self.program, *self.args, fusions=fusions, **options)[1]

    def test_a_refusal_lets_the_next_fusion_try(self):
        reasons = []

        def refuse(chain):
            reasons.append(chain[Norm].op.eps)
            return chain.refuse(RefusalKind.SHAPE, "hidden size {size} is too small", "128 and more fuse", size=64)

        record = self.run([dataclasses.replace(stubs.NORM_QUANTIZE, check=refuse), stubs.QUANTIZE])
        assert [site.fusion for site in record.sites] == ["quantize"]
        (refusal,) = record.refusals
        assert refusal.candidate == "norm_quantize"
        assert refusal.kind is RefusalKind.SHAPE and (refusal.found, refusal.remedy) == (
            "hidden size 64 is too small",
            "128 and more fuse",
        )
        assert reasons == [1e-5]
        assert record.count_unfused() == {"RMSNorm": 1}

    def test_a_chain_that_is_left_is_left_whole(self):
        leave = dataclasses.replace(stubs.NORM_QUANTIZE, check=unprofitable)
        record = self.run([leave, stubs.QUANTIZE, stubs.NORM])
        assert not record.sites and not record.refusals and not record.unfused
        (kept,) = record.kept
        assert kept.refusal.kind is RefusalKind.UNPROFITABLE and kept.refusal.found == "it is fast enough"
        assert kept.fusion == "norm_quantize" and [type(op) for op in kept.ops] == [Norm, Quantize]

    def test_copies_in_a_chain_that_is_left_are_computed_once(self):
        leave = dataclasses.replace(stubs.NORM_QUANTIZE, check=unprofitable)
        amax = torch.ops.aten.amax.default
        assert calls(rewritten(projections, *PROJECTIONS, fusions=[])[0].graph, amax) == [3]
        after, record = rewritten(projections, *PROJECTIONS, fusions=[leave])
        assert calls(after.graph, amax, torch.ops.aten._scaled_mm.default) == [1, 3]
        assert record.kept[0].merged == 3

    def test_order_is_preference(self):
        assert [site.fusion for site in self.run([stubs.QUANTIZE, stubs.NORM_QUANTIZE]).sites] == ["quantize"]

    def test_a_residual_that_is_refused_is_left_outside(self):
        def program(x, residual, weight):
            total = x + residual
            return quantisers.torchao_row(programs.llama_norm(total, weight)), total

        refuse = lambda chain: never(chain) if chain[Norm].op.residual else None  # noqa: E731
        fusion = dataclasses.replace(stubs.NORM_QUANTIZE, check=refuse)
        args = programs.tensor(8, 64), programs.tensor(8, 64, seed=1), programs.tensor(64)
        after, record = rewritten(program, *args, fusions=[fusion])
        assert calls(after.graph, stubs.norm_quantize, torch.ops.aten.add.Tensor) == [1, 1]
        assert not record.refusals

    def test_disable_and_only(self):
        assert [site.fusion for site in self.run(stubs.ALL, disable=["norm_quantize"]).sites] == ["quantize"]
        assert [site.fusion for site in self.run(stubs.ALL, only=["quantize"]).sites] == ["quantize"]
        record = self.run(stubs.ALL, only=[])
        assert not record.sites and record.count_unfused() == {"RMSNorm": 1, "Quantize": 1}

    @pytest.mark.parametrize("option", ["disable", "only"])
    def test_unknown_names(self, option):
        with pytest.raises(ValueError, match=r"no fusion is called 'norm_qant'; there are 'norm_quantize', 'quantize'"):
            FusionPass(stubs.ALL, **{option: ["norm_qant"]})
        with pytest.raises(ValueError, match="expected a collection of names, as"):
            FusionPass(stubs.ALL, **{option: "quantize"})

    def test_two_fusions_of_one_name(self):
        with pytest.raises(ValueError, match="found more than one called quantize"):
            FusionPass([stubs.QUANTIZE, stubs.QUANTIZE])

    def test_a_pair_that_nothing_links(self):
        """A chain that is never found would be a fusion that silently does nothing."""
        fusion = Fusion("quantize_norm", (Quantize, Norm), build=stubs.QUANTIZE.build)
        with pytest.raises(ValueError, match="'quantize_norm' has a chain with Quantize -> Norm, which would never be found"):
            FusionPass([stubs.QUANTIZE, fusion])
        with pytest.raises(ValueError, match="LINKS links Norm -> Quantize, .*Activation -> Quantize"):
            FusionPass([fusion], disable=["quantize_norm"])

    def test_readers_of_an_output(self):
        seen = []

        def refuse(chain):
            seen.extend(chain.readers(Quantize, "q"))

        rewritten(projections, *PROJECTIONS, fusions=[dataclasses.replace(stubs.NORM_QUANTIZE, check=refuse)])
        assert [type(reader.match.op) for reader in seen] == [Matmul] * 3
        assert all(reader.node.target is torch.ops.aten._scaled_mm.default for reader in seen)
        assert [[view.target for view in reader.views] for reader in seen] == [[torch.ops.aten.reshape.default]] * 3


class TestAssertions:
    """torch.export asserts beside each cast what its input was; Inductor drops that, and it reads nothing."""

    @staticmethod
    def graph():
        graph = capture(TestChoosing.program, *TestChoosing.args).graph
        for node in [node for node in graph.nodes if node.op == "call_function"]:
            with graph.inserting_after(node):
                dtype = node.meta["val"].dtype
                graph.call_function(torch.ops.aten._assert_tensor_metadata.default, (node, None, None, dtype))
        return graph

    def test_they_are_no_readers(self):
        graph = self.graph()
        assert calls(graph, torch.ops.aten._assert_tensor_metadata.default) != [0]
        fusion_pass = FusionPass(stubs.ALL, strict=True)
        fusion_pass(graph)
        assert calls(graph, stubs.norm_quantize, torch.ops.aten._assert_tensor_metadata.default) == [1, 0]
        assert not fusion_pass.records[0].refusals
        graph.lint()

    @pytest.mark.parametrize("fusions", [[], [dataclasses.replace(stubs.NORM_QUANTIZE, build=lambda chain, emit: 1 / 0)]])
    def test_a_graph_that_is_left_alone_keeps_them(self, fusions):
        graph = self.graph()
        before = str(graph)
        FusionPass(fusions)(graph)
        assert str(graph) == before
        graph.lint()


def failing(chain, emit):
    emit(torch.ops.aten.relu.default, chain.inputs["x"])
    raise RuntimeError("no such kernel")


def of_wrong_dtype(chain, emit):
    made = stubs.build_norm_quantize(chain, emit)
    return made | {(Quantize, "scale"): emit(torch.ops.aten.to.dtype, made[Quantize, "scale"], torch.float64)}


def of_wrong_size(chain, emit):
    made = stubs.build_norm_quantize(chain, emit)
    return made | {(Quantize, "scale"): emit(torch.ops.aten.slice.Tensor, made[Quantize, "scale"], 0, 0, 1)}


def incomplete(chain, emit):
    return {(Quantize, "q"): stubs.build_norm_quantize(chain, emit)[Quantize, "q"]}


def reading_itself(chain, emit):
    made = stubs.build_norm_quantize(chain, emit)
    q = chain[Quantize].outputs["q"][0]
    return made | {(Quantize, "q"): emit(torch.ops.aten.alias.default, q)}


FAILURES = {
    failing: "in build of 'norm_quantize' at .*: RuntimeError: no such kernel",
    of_wrong_dtype: r"cannot replace .*: expected fp32\[2, 8, 1\] on cpu up to a reshape, found fp64\[2, 8, 1\] on cpu",
    of_wrong_size: r"expected fp32\[2, 8, 1\] on cpu up to a reshape, found fp32\[1, 8, 1\]",
    incomplete: "no node for Quantize's 'scale', which has readers outside the chain",
    reading_itself: r"reads prims.convert_element_type.default \(\w+\), which the chain computes",
}


class TestFailing:
    """One fusion works, the next fails: the graph is as it was."""

    @staticmethod
    def program(x, residual, weight, b, b_scale):
        (first, total) = projections(x, residual, weight, b, b_scale)
        return first, quantisers.torchao_row(programs.olmo_norm(total, weight))

    def fusions(self, build):
        other = lambda chain: None if chain[Norm].op.rounding is CAST_THEN_SCALE else never(chain)  # noqa: E731
        good = dataclasses.replace(stubs.NORM_QUANTIZE, name="good", check=other)
        return [good, dataclasses.replace(stubs.NORM_QUANTIZE, build=build)]

    @pytest.mark.parametrize("build", FAILURES, ids=by_name)
    def test_the_graph_stays_as_it_was(self, build, caplog):
        graph = capture(self.program, *PROJECTIONS).graph
        before, users = str(graph), {node.name: set(node.users) for node in graph.nodes}
        fusion_pass = FusionPass(self.fusions(build), keep_code=True)
        with caplog.at_level(logging.WARNING, logger=LOGGER):
            fusion_pass(graph)
        assert str(graph) == before
        assert {node.name: set(node.users) for node in graph.nodes} == users
        graph.lint()
        (record,) = fusion_pass.records
        assert not record.sites and record.before == record.after
        assert [entry.getMessage() for entry in caplog.records if entry.name.startswith(LOGGER)] == [record.error]
        assert "\n" not in record.error
        with pytest.raises(FusionError, match=FAILURES[build]):
            raise FusionError(record.error, None)

    @pytest.mark.parametrize("build", FAILURES, ids=by_name)
    def test_strict_raises(self, build):
        graph = capture(self.program, *PROJECTIONS).graph
        before = str(graph)
        with pytest.raises(FusionError, match=FAILURES[build]) as raised:
            FusionPass(self.fusions(build), strict=True)(graph)
        assert str(graph) == before
        if build is failing:
            assert raised.value.site.file == quantisers.__file__
            assert isinstance(raised.value.__cause__, RuntimeError)

    def test_a_failing_check(self, caplog):
        def refuse(chain):
            raise ZeroDivisionError("sizes")

        graph = capture(self.program, *PROJECTIONS).graph
        fusion_pass = FusionPass([dataclasses.replace(stubs.NORM_QUANTIZE, check=refuse)])
        fusion_pass(graph)
        assert "in check of 'norm_quantize'" in fusion_pass.records[0].error

    def test_a_failing_callback_is_logged(self, caplog):
        def on_record(record):
            raise RuntimeError("report")

        graph = capture(self.program, *PROJECTIONS).graph
        FusionPass(stubs.ALL, on_record=on_record)(graph)
        assert "on_record failed" in caplog.text
        assert calls(graph, stubs.norm_quantize) == [2]


class TestLogging:
    def test_one_line_a_graph_and_the_reasons_in_detail(self, caplog):
        def program(x, weight):
            return x.clamp(-448, 448).to(programs.E4M3), quantisers.torchao_row(programs.llama_norm(x, weight))

        with caplog.at_level(logging.DEBUG, logger=LOGGER):
            rewritten(program, programs.tensor(8, 64), programs.tensor(64))
        lines = {
            record.levelname: record.getMessage()
            for record in caplog.records
            if record.name.startswith("helion_compile.passes")
        }
        assert lines["INFO"].startswith("1 x norm_quantize, 1 refused (")
        assert ": expected x / scale" in lines["DEBUG"]

    def test_code_before_and_after(self):
        _, record = rewritten(projections, *PROJECTIONS, keep_code=True)
        assert "rsqrt" in record.before and "rsqrt" not in record.after and "norm_quantize" in record.after
        assert not rewritten(projections, *PROJECTIONS)[1].before


class TestIdentity:
    def test_what_it_covers(self):
        uuids = [
            FusionPass(stubs.ALL).uuid(),
            FusionPass(stubs.ALL, identity="tables 2").uuid(),
            FusionPass(stubs.ALL, disable=["quantize"]).uuid(),
            FusionPass(stubs.ALL[::-1]).uuid(),
            FusionPass(stubs.ALL, strict=True).uuid(),
            FusionPass(stubs.ALL, reject={("quantize", "div_1"): None}).uuid(),
            FusionPass(stubs.ALL, reject={("quantize", "div_2"): None}).uuid(),
        ]
        assert len(set(uuids)) == len(uuids)
        # What only says how the result is reported is the same compiled graph.
        assert FusionPass(stubs.ALL, keep_code=True, keep=(), on_record=print).uuid() == uuids[0]
        assert FusionPass(stubs.ALL, only=["quantize", "norm_quantize"]).uuid() == uuids[0]

    def test_equal_in_another_process(self):
        code = (
            "from tests.support.stubs import ALL; from helion_compile.passes import FusionPass; print(FusionPass(ALL).uuid())"
        )
        found = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
        )
        assert found.stdout.strip() == FusionPass(stubs.ALL).uuid()

    def test_as_a_value_of_inductors_config(self):
        from torch._inductor import config

        fusion_pass = FusionPass(stubs.ALL)
        with config.patch(post_grad_custom_pre_pass=fusion_pass):
            assert config.post_grad_custom_pre_pass is fusion_pass
            assert config.get_config_copy()["post_grad_custom_pre_pass"] is fusion_pass
            config.save_config_portable(ignore_private_configs=False)
        assert copy.deepcopy(fusion_pass) is fusion_pass

    def test_pickles_without_records(self):
        fusion_pass = FusionPass([dataclasses.replace(stubs.QUANTIZE, check=never)], on_record=lambda record: None)
        fusion_pass.records.append(None)
        copied = pickle.loads(pickle.dumps(fusion_pass))
        assert not copied.records and copied.uuid() == fusion_pass.uuid()


def never(chain):
    return chain.refuse(RefusalKind.OP, "it is never taken", "nothing fuses")


def unprofitable(chain):
    return chain.refuse(RefusalKind.UNPROFITABLE, "it is fast enough", "a slower one fuses")
