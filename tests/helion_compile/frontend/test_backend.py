# SPDX-License-Identifier: Apache-2.0
"""``torch.compile(..., backend="helion")``: its name, its options, its neighbours in Inductor's hooks, its log."""

import copy
import io
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import fp8_models
import pytest
import torch
import torch._inductor.compile_fx
from torch._inductor.custom_graph_pass import CustomGraphPass

import helion_compile.frontend.backend
from helion_compile.frontend.inductor import HOOK, PassSequence
from helion_compile.frontend.options import Options
from helion_compile.fusions import fusions
from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.semantics import Quantize
from tests.support import ROOT
from tests.support.corpus.quantisers import torchao_row
from tests.support.logged_model import K, arguments, model

pytestmark = pytest.mark.usefixtures("small_programs")

NAMES = ", ".join(repr(fusion.name) for fusion in fusions())


def test_torch_knows_the_name():
    assert "helion" in torch._dynamo.list_backends()


class TestModes:
    @pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
    def test_modes_of_torch_compile(self, mode, summary):
        assert summary(mode=mode).startswith("1 x norm_quant, 1 x quant (")

    def test_an_unknown_mode(self):
        with pytest.raises(Exception, match="Unrecognized mode=fast"):
            torch.compile(model, backend="helion", mode="fast")(*arguments())

    def test_dynamic_sizes(self, lines):
        compiled = torch.compile(model, backend="helion", dynamic=True, fullgraph=True)

        def call():
            for m in (8, 5, 300):
                args = arguments(m)
                for tensor in args:
                    torch._dynamo.mark_static(tensor, tensor.dim() - 1)
                results = compiled(*args)
                assert [result.shape[0] for result in results] == [m] * 4

        ((_, line),) = lines(call)
        assert line.startswith("1 x norm_quant, 1 x quant (")

    def test_reset_forgets_what_was_compiled(self, lines):
        compiled = torch.compile(model, backend="helion", mode="reduce-overhead")
        assert len(lines(lambda: compiled(*arguments()))) == 1
        assert len(lines(lambda: compiled(*arguments()))) == 0
        torch.compiler.reset()
        assert len(lines(lambda: compiled(*arguments()))) == 1

    def test_results_are_inductors_up_to_a_step(self):
        ours = torch.compile(model, backend="helion")(*arguments())
        theirs = torch.compile(model, backend="inductor")(*arguments())
        for result, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(result.float(), expected.float(), rtol=2**-3, atol=0)  # a step of fp8 e4m3


class Spy(CustomGraphPass):
    """A user's own pass; with an identity or without."""

    def __init__(self, identity):
        self.identity = identity
        self.kernels = []  # ours in the graph, at each call

    def __call__(self, graph):
        self.kernels.append(sum("helion_kernel" in str(node.target) for node in graph.nodes))

    def __deepcopy__(self, memo):
        return self

    def uuid(self):
        return self.identity


class TestUsersPasses:
    @pytest.mark.usefixtures("kernels_are_called")
    @pytest.mark.parametrize("how", ["options", "config"])
    @pytest.mark.parametrize("identity", ["mine", None])
    def test_theirs_runs_before_ours_and_the_post_pass_after(self, how, identity, summary):
        before, after = Spy(identity), Spy(identity)
        passes = {"post_grad_custom_pre_pass": before, "post_grad_custom_post_pass": after}
        if how == "options":
            line = summary(options=passes)
        else:
            with torch._inductor.config.patch(passes):
                line = summary()
        assert line.startswith("1 x norm_quant, 1 x quant (")
        assert (before.kernels, after.kernels) == ([0], [2])

    def test_a_plain_function(self, summary):
        graphs = []
        assert summary(options={HOOK: graphs.append}).startswith("1 x norm_quant")
        assert len(graphs) == 1

    def test_keys_of_the_compile_cache(self):
        def key(user, **options):
            fusion_pass = Options.split(options)[0].fusion_pass()
            return PassSequence([user, fusion_pass]).uuid()

        keys = [
            key(Spy("one")),
            key(Spy("two")),
            key(Spy("one"), numerics="exact"),
            key(Spy("one"), disable=["quant"]),
            key(Spy("one"), strict=True),
        ]
        assert len(set(keys)) == len(keys)
        assert key(Spy("one")) == keys[0]
        # None keeps a graph out of the cache: nobody can say what these passes do.
        assert key(Spy(None)) is None
        assert key(lambda graph: None) is None


class TestFailure:
    @pytest.fixture(autouse=True)
    def a_fusion_that_fails(self, monkeypatch):
        real = helion_compile.frontend.options.fusions

        def build(chain, emit):
            raise RuntimeError("no kernel today")

        def with_failing(numerics, untuned):
            first, *_ = real(numerics, untuned)
            return first, Fusion("quant", (Quantize,), build)

        monkeypatch.setattr(helion_compile.frontend.options, "fusions", with_failing)

    def test_the_model_runs_without_fusions(self, lines):
        results = []
        logged = lines(lambda: results.extend(torch.compile(model, backend="helion")(*arguments())))
        ((level, line),) = logged
        assert level == "WARNING"
        assert "failed in build of 'quant' at " in line and "no kernel today" in line
        assert "compiled without fusions" in line
        expected = torch.compile(model, backend="inductor")(*arguments())
        for result, value in zip(results, expected, strict=True):
            assert torch.equal(result.float(), value.float())

    def test_the_report_says_why(self):
        report = helion_compile.explain(model, *arguments())
        (graph,) = report.graphs
        assert "no kernel today" in graph.record.error
        assert graph.before == graph.after
        assert not report.sites
        text = str(report)
        assert "Nothing fused: the fusion pass failed in build of 'quant' at" in text
        assert "Total: nothing fused" in text

    def test_strict_raises(self):
        with pytest.raises(Exception, match="failed in build of 'quant' at .*no kernel today"):
            torch.compile(model, backend="helion", options={"strict": True})(*arguments())


class Product(torch.nn.Module):
    """A norm in front of a product in fp8, which has no derivative; its weight requires grad until somebody says otherwise."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(K, dtype=torch.bfloat16))
        self.register_buffer("linear", torch.randn(K, K).to(torch.float8_e4m3fn).t())

    def forward(self, x):
        x32 = x.float()
        norm = self.weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        q, scale = torchao_row(norm)
        return torch._scaled_mm(q, self.linear, scale, torch.ones(1, K), out_dtype=torch.bfloat16)


class TestHowModelsCome:
    """What stands around ``torch.compile(model, backend="helion")`` in people's programs."""

    x = torch.randn(8, K, generator=torch.Generator().manual_seed(0)).bfloat16()

    @pytest.fixture(autouse=True)
    def row_wise_products_on_a_cpu(self):
        fp8_models.ensure_row_wise_scaled_mm_on_cpu()

    @pytest.mark.filterwarnings("ignore:Error detected in torch")
    @pytest.mark.parametrize("how", ["compile", "explain"])
    def test_a_forgotten_no_grad_is_said(self, how):
        explain = helion_compile.explain
        call = explain if how == "explain" else lambda model, x: torch.compile(model, backend="helion")(x)
        with pytest.raises(Exception, match="derivative for aten::_scaled_mm is not implemented, and this graph") as error:
            call(Product(), self.x)
        for part in ("grad mode is on", "1 of its inputs require grad", "weight", "torch.no_grad()", "requires_grad_(False)"):
            assert part in str(error.value)
        call(Product().requires_grad_(False), self.x)

    @pytest.mark.parametrize("strict", [True, False])
    @torch.no_grad()
    def test_an_exported_model_fuses(self, strict):
        exported = torch.export.export(Product(), (self.x,), strict=strict).module()
        assert "_assert_tensor_metadata" in str(exported.graph)
        report = helion_compile.explain(exported, self.x)
        assert [each.site.fusion for each in report.sites] == ["norm_quant"]

    @torch.no_grad()
    def test_what_reduce_overhead_means_beside_options(self, summary):
        """torch.compile takes a mode or options; a mode's options can be given one by one."""
        assert torch._inductor.list_mode_options("reduce-overhead") == {"triton.cudagraphs": True}
        line = summary(options={"triton.cudagraphs": True, "numerics": "exact"})
        assert line.startswith("1 x norm_quant, 1 x quant (")

    @torch.no_grad()
    def test_copies_and_pickles_of_a_compiled_module(self):
        compiled = torch.compile(Product(), backend="helion")
        expected = compiled(self.x)
        file = io.BytesIO()
        torch.save(compiled, file)
        file.seek(0)
        for other in (copy.deepcopy(compiled), torch.load(file, weights_only=False)):
            assert torch.equal(other(self.x), expected)

    @torch.no_grad()
    def test_compiled_twice(self, lines):
        inner = torch.compile(model, backend="helion")
        logged = lines(lambda: torch.compile(inner, backend="helion")(*arguments()))
        assert [line.partition(" (")[0] for _, line in logged] == ["1 x norm_quant, 1 x quant"]

    def test_under_inference_mode_and_autocast(self, lines):
        def called():
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                return torch.compile(Product(), backend="helion", fullgraph=True)(self.x)

        results = []
        ((_, line),) = lines(lambda: results.append(called()))
        assert line.startswith("1 x norm_quant, 1 x matmul kept (") and results[0].is_inference()


class TestLog:
    def test_details(self, lines):
        def call():
            torch.compile(refused_too, backend="helion")(*arguments())

        def refused_too(x, residual, weight):
            return *model(x, residual, weight), torchao_row(x.t())[0]

        (_, (level, line), *details) = lines(call, logging.DEBUG)  # the first is the pass's own
        assert level == "INFO" and line.startswith("1 x norm_quant, 1 x quant, 1 x Quantize unfused, 1 refused (")
        assert {level for level, _ in details} == {"DEBUG"}
        starts = [text.split(" at ")[0] for _, text in details]
        assert starts == ["fused norm_quant", "fused quant", "refused quant"]
        assert all(f"{Path(torchao_row.__code__.co_filename).name}:" in text for _, text in details)
        assert details[0][1].endswith("Quantize(bf16 to fp8 e4m3 per token, bf16 scale, divide, clamp)")
        assert "not contiguous" in details[2][1]

    # A new process, because TORCH_LOGS is read when torch is imported.  It imports nothing of ours: the entry point does.
    SCRIPT = """
        import sys
        import torch

        def quantize(x):
            scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
            return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale

        torch.compile(quantize, backend="helion")(torch.ones(8, 64))
        print("AGAIN", file=sys.stderr)
        torch.compiler.reset()
        torch.compile(quantize, backend="helion")(torch.ones(8, 64))
    """

    def test_torch_logs_shows_each_thing_once(self, tmp_path):
        told = run(self.SCRIPT, TORCH_LOGS="+helion_compile", TORCHINDUCTOR_CACHE_DIR=str(tmp_path)).stderr
        detailed, _, cached = told.partition("AGAIN")
        assert detailed.count("1 x quant (") == 1
        assert detailed.count("fused quant at ") == 1
        # The same graph compiled again: taken from the cache, not matched again, and the log says so.
        assert cached.count("from Inductor's cache: 1 x quant (") == cached.count("1 x quant") == 1
        assert cached.count("fused quant at ") == 1


def run(script, **environment):
    env = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=env, check=True)
