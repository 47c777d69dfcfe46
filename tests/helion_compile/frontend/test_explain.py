# SPDX-License-Identifier: Apache-2.0
"""``explain``: what it finds, what it says of it, what it leaves alone, and what cannot be explained."""

import logging
import time

import fp8_models
import pytest
import torch
from torch import nn

import helion_compile
from helion_compile import explain
from helion_compile.configs.gpu import Gpu
from helion_compile.kernels import quant
from helion_compile.passes.ir.source_location import shown_path
from tests.support.corpus.quantisers import torchao_row


@pytest.fixture(scope="module")
def llama():
    return fp8_models.quantize_fp8_per_row(fp8_models.llama())


@pytest.fixture(scope="module")
def ids(llama):
    return fp8_models.token_ids(llama, 2, 8)


@pytest.fixture(scope="module")
def report(llama, ids):
    return explain(llama, ids)


def x_of(m=8, k=64):
    return torch.ones(m, k, dtype=torch.bfloat16)


class TestWhatItFinds:
    def test_a_site(self, report):
        (graph,) = report.graphs
        first = report.sites[0]
        site = first.site
        assert site.fusion == "norm_quant"
        assert site.location.module == "model.layers.0.self_attn.q_proj"
        assert shown_path(site.location.file) == "transformers/models/llama/modeling_llama.py"
        line = open(site.location.file).read().splitlines()[site.location.line - 1]
        assert "self.q_proj(hidden_states)" in line
        assert tuple(map(str, site.ops)) == (
            "RMSNorm(eps=1e-06, bf16, cast then scale)",
            "Quantize(bf16 to fp8 e4m3 per token, bf16 scale, divide, clamp)",
        )
        assert site.shapes == {
            "x": "bf16[2, 8, 256]",
            "weight": "bf16[256]",
            "q": "fp8 e4m3[2, 8, 256]",
            "scale": "fp32[2, 8, 1]",
        }
        assert site.merged == 3
        assert first.kernel == helion_compile.kernels.norm_quant.short_key
        assert str(first.config) == "no GPU: its reference runs on cpu"
        assert site.node == "norm_quant" and "norm_quant_1" in report.graphs[0].after
        assert first.before.kernels == len(site.replaced) == 35 and first.after.kernels == 1
        # x and weight in, q and scale out, of [16, 256]
        assert first.after.bytes == 16 * 256 * 2 + 256 * 2 + 16 * 256 + 16 * 4
        assert not graph.training

    def test_sites_come_in_the_order_of_the_model(self, report):
        modules = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]
        assert [fused.site.location.module for fused in report.sites] == [
            f"model.layers.{layer}.{module}" for layer in (0, 1) for module in modules
        ]

    def test_what_is_kept_and_unfused(self, report):
        assert len(report.kept) == 14
        assert report.kept[0].shapes["out"] == "bf16[16, 256]"
        assert report.graphs[0].record.count_unfused()["RMSNorm"] == 1
        assert [each.location.module for each in report.unfused if each.name == "RMSNorm"] == ["model.norm"]
        assert report.refusals == []

    def test_a_refusal(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Module()
                self.inner.forward = lambda x: torchao_row(x.t())

            def forward(self, x):
                return torchao_row(x), self.inner(x)

        report = explain(Two(), x_of())
        (refusal,) = report.refusals
        assert refusal.candidate == "quant"
        assert "the last dimension of x is not contiguous" in str(refusal)
        file = torchao_row.__code__.co_filename
        assert refusal.location.file == file
        assert ".to(E4M3), scale" in open(file).read().splitlines()[refusal.location.line - 1]

    def test_options_and_dynamic_are_the_backends(self):
        x = x_of()
        torch._dynamo.mark_static(x, 1)
        assert explain(torchao_row, x, options={"disable": ["quant"]}).sites == []
        (fused,) = explain(torchao_row, x, dynamic=True).sites
        assert fused.site.shapes["x"].endswith(", 64]") and "[s" in fused.site.shapes["x"]
        with pytest.raises(Exception, match="Unrecognized mode=fast"):
            explain(torchao_row, x, mode="fast")

    def test_keyword_arguments_and_methods(self, llama, ids):
        assert len(explain(llama, input_ids=ids).sites) == 8
        assert len(explain(llama.forward, ids).sites) == 8

    def test_a_compiled_model(self, llama, ids):
        compiled = torch.compile(llama, backend="helion")
        assert len(explain(compiled, ids).sites) == 8
        compiled = torch.compile(torchao_row, backend="inductor")
        assert len(explain(compiled, x_of()).sites) == 1

    def test_a_graph_break(self):
        def broken(x):
            q, scale = torchao_row(x)
            torch._dynamo.graph_break()
            return q, scale, *torchao_row(x)

        report = explain(broken, x_of())
        assert [len(graph.fused) for graph in report.graphs] == [1, 1]
        assert "Graph 2 of 2" in str(report)

    def test_the_config_on_a_gpu(self, monkeypatch):
        """With tensors that only say they are on a GPU: which config, and where it came from."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        from helion_compile.reports.describing import config_of

        monkeypatch.setattr(Gpu, "current", staticmethod(lambda: Gpu("NVIDIA H200", (9, 0))))
        with FakeTensorMode():
            x = torch.empty(16, 64, dtype=torch.bfloat16, device="cuda")
        args = [x, None, None, "float8_e4m3fn clamp=-448:448 scale_dtype=bfloat16", False]
        config = config_of(quant, args)
        pick = quant.table.pick(quant.case(*args), Gpu.current())
        assert str(config) == f"{dict(pick.config)} ({pick.sentence})"
        assert config.values == pick.config and config.origin == pick.origin


class TestWhatItSays:
    def test_no_quantiser(self, report):
        text = " ".join(str(explain(nn.Linear(8, 8).requires_grad_(False), torch.ones(2, 8))).split())
        assert "nothing fused" in text
        assert "the products are 1 x aten.addmm.default of fp32: are the model's linears quantised" in text
        assert "norm-like: none quantize-like: none matmul-like: 1 x aten.addmm.default of fp32, first at" in text

    def test_no_graph(self):
        assert "the model calls no torch operation" in str(explain(lambda x: x, 3))

    def test_training(self):
        norm = nn.RMSNorm(64)
        report = explain(lambda x: torchao_row(norm(x)), torch.ones(8, 64))
        assert report.graphs[0].training
        text = str(report)
        assert "traced for training" in text
        assert "torch.no_grad()" in text
        with torch.no_grad():
            report = explain(lambda x: torchao_row(norm(x)), torch.ones(8, 64))
        assert not report.graphs[0].training and len(report.sites) == 1
        assert "traced for training" not in str(report)

    def test_it_logs_under_its_own_name(self, caplog):
        """The line of a compiled graph and that of an explained one can be told apart."""
        with caplog.at_level(logging.INFO, logger="helion_compile"):
            explain(torchao_row, x_of())
        (record,) = (record for record in caplog.records if record.name.startswith("helion_compile"))
        assert record.name == "helion_compile.explain"


class TestWhatItLeavesAlone:
    def test_a_model_compiled_before(self):
        compiled = torch.compile(torchao_row, backend="helion")
        expected = compiled(x_of())
        for m in range(2, 14):  # more than Dynamo's limit of 8 variants a function
            explain(torchao_row, x_of(m))
        with torch.compiler.set_stance("fail_on_recompile"):
            assert torch.equal(compiled(x_of())[1], expected[1])

    def test_a_model_compiled_after(self):
        """Sizes that were explained before do not make a later compilation dynamic, nor a later explanation."""
        for m in (3, 5, 7):
            (fused,) = explain(torchao_row, x_of(m)).sites
            assert fused.site.shapes["x"] == f"bf16[{m}, 64]"
        shapes = []
        torch.compile(torchao_row, backend=lambda gm, inputs: shapes.append(inputs[0].shape) or gm)(x_of(9))
        assert shapes == [(9, 64)]

    def test_dynamos_limits(self):
        """Each explanation begins afresh, so that any number of them is possible."""
        with torch._dynamo.config.patch(accumulated_recompile_limit=3):
            for m in range(2, 8):
                assert len(explain(torchao_row, x_of(m)).sites) == 1

    def test_no_code_is_generated(self, llama, ids, monkeypatch):
        def generate(*args, **kwargs):
            raise AssertionError("explain generated code")

        monkeypatch.setattr(torch._inductor.graph.GraphLowering, "run", generate)
        started = time.perf_counter()
        assert len(explain(llama, ids).sites) == 8
        # Tracing takes 1 to 2 s on 2 cores, compiling these graphs 10 s and more.
        assert time.perf_counter() - started < 30


class TestBadInput:
    @pytest.mark.parametrize("model", ["model.pt", None, 3], ids=repr)
    def test_no_model(self, model):
        with pytest.raises(TypeError, match=r"explain\(\) takes a module or a function and its arguments; got a "):
            explain(model)

    def test_a_class(self):
        with pytest.raises(TypeError, match="got the class ReLU: give one of its objects"):
            explain(nn.ReLU, x_of())

    def test_values_of_its_own_arguments(self):
        with pytest.raises(TypeError, match=r"was given dynamic='yes'; it is one of True, False, None\."):
            explain(torchao_row, x_of(), dynamic="yes")
        with pytest.raises(TypeError, match=r"was given verify=1; it is one of True, False\."):
            explain(torchao_row, x_of(), verify=1)
        with pytest.raises(ValueError, match="mode='reduce-overhead' and options; torch.compile takes one of them"):
            explain(torchao_row, x_of(), mode="reduce-overhead", options={"numerics": "exact"})

    def test_options_that_are_none(self):
        with pytest.raises(TypeError, match="options is a str; give a dict"):
            explain(torchao_row, x_of(), options="exact")
        with pytest.raises(ValueError, match="did you mean 'numerics'"):
            explain(torchao_row, x_of(), options={"numeric": "exact"})

    def test_arguments_that_the_model_does_not_take(self, llama):
        with pytest.raises(Exception, match="You must specify exactly one of input_ids or inputs_embeds"):
            explain(llama)
        with pytest.raises(TypeError, match="positional argument"):
            explain(torchao_row)

    def test_an_error_of_the_model_is_the_models(self):
        def broken(x):
            raise KeyError("tokenizer")

        with pytest.raises(KeyError, match="tokenizer"):
            explain(broken, x_of())


def test_a_model_compiled_in_place_is_explained_as_it_is_written():
    class Inner(torch.nn.Module):
        def forward(self, x):
            torch._dynamo.graph_break()
            return x + 1

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), Inner())
    model.compile(backend="eager")
    with torch.no_grad():
        report = helion_compile.explain(model, torch.randn(2, 8))
    assert len(report.graphs) >= 1
    assert model._compiled_call_impl is not None
