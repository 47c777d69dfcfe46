# SPDX-License-Identifier: Apache-2.0
"""The three lines on top of a report, for what a user may have in hand; times of a GPU that is not here."""

import dataclasses
import re

import pytest
import torch

from helion_compile import explain, kernel
from helion_compile.passes.ir.inductor_estimate import estimate_inductor
from helion_compile.reports import Report
from helion_compile.reports.encoding import decode, encode
from helion_compile.reports.model import GraphReport
from helion_compile.reports.text import render
from tests.support.corpus.quantisers import torchao_row


class Chain(torch.nn.Module):
    """RMSNorm, fp8 with a scale per token; hidden size 4096, for which tables have rows."""

    def __init__(self, width=4096):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(width, dtype=torch.bfloat16), requires_grad=False)

    def forward(self, x):
        x32 = x.float()
        norm = self.weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return torchao_row(norm)


X = torch.ones(16, 4096, dtype=torch.bfloat16)


def test_times_of_a_gpu_that_is_not_here():
    told = explain(Chain(), X, gpu="h200")
    (site,) = told.sites
    assert (site.config.origin, site.config.gpu) == ("exact", "NVIDIA H200")
    gain = told.gain
    assert (gain.us, gain.inductor_us) == (site.config.us, site.config.baselines["inductor"])
    assert f"; 1 chain is fused; it takes {gain.us:.1f} µs, {gain.inductor_us:.1f} without us " in told.headline.gain
    assert f"({gain.inductor_us / gain.us:.2f}x), by the tables of NVIDIA H200." in told.headline.gain
    assert told.identity.gpu == "NVIDIA H200" and told.identity.device == "cpu"
    assert render(told).startswith("Chain on cpu, as on NVIDIA H200; torch ")


def test_without_a_gpu_the_next_thing_is_to_name_one():
    told = explain(Chain(), X).headline
    assert told.gain.startswith("over Inductor (estimated) 1 -> 1 kernels, ") and "they are those of a GPU" in told.gain
    assert 'gpu="h200"' in told.next


def test_what_no_table_speaks_for_is_to_be_tuned():
    told = explain(Chain(), X, gpu="b200").headline
    assert told.gain == "nothing over Inductor: no chain was fused."
    assert told.held_back.startswith("1 x norm_quant kept, the first of them because: nothing says that norm_quant is faster")
    assert told.next == "helion-compile tune norm_quant"


def test_times_of_another_gpu_do_not_count():
    gain = explain(Chain(), X, gpu="h100").gain
    assert (gain.us, gain.timed, gain.sites) == (None, 0, 1)


def test_a_name_that_no_gpu_has():
    with pytest.raises(ValueError, match="no GPU is called 'h20000'; known are .*h200"):
        explain(Chain(), X, gpu="h20000")


def test_for_training_it_says_what_to_do():
    linear = torch.nn.Linear(8, 8)
    told = explain(linear, torch.ones(2, 8)).headline
    assert told.held_back.startswith("A graph for training") and told.next.startswith("with torch.no_grad():")


def test_nothing_quantised():
    told = explain(torch.nn.Linear(8, 8).requires_grad_(False), torch.ones(2, 8)).headline
    assert told.held_back.startswith("No quantisation was found") and "--quantize fp8-row" in told.next


def add_one_reference(x):
    return x + 1


@kernel(reference=add_one_reference)
def add_one(x: torch.Tensor) -> torch.Tensor:
    import helion.language as hl

    out = torch.empty_like(x)
    for tile in hl.tile(x.shape):
        out[tile] = x[tile] + 1
    return out


def test_kernels_that_the_model_calls_are_listed():
    told = explain(lambda x: add_one(add_one(x)), torch.ones(4, 8))
    assert len(told.called) == 2 and told.called[0].kernel.startswith("tests.helion_compile.reports.test_headline::add_one@")
    assert told.headline.gain.endswith("2 calls of kernels are the model's own.")
    text = " ".join(render(told).split())
    assert "called: tests.helion_compile.reports.test_headline::add_one in the function itself (2 times)" in text
    assert "shapes x fp32[4, 8], out fp32[4, 8]" in text and "config no GPU" in text
    assert decode(list[GraphReport], encode(list(told.graphs)))[0].called == tuple(
        told.called
    )  # as it is kept beside Inductor's cache


def test_which_report_it_is():
    identity = explain(Chain(), X).identity
    assert identity.model == "Chain" and identity.versions["torch"] == torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d[+-]\d\d:\d\d", identity.date)


def test_in_a_notebook():
    told = explain(Chain(), X)
    (graph,) = told.graphs
    fused = dataclasses.replace(graph.fused[0], kernel="<script>")
    shown = Report((dataclasses.replace(graph, fused=(fused,)),))._repr_html_()
    assert "<b>gained</b> over Inductor" in shown and "&lt;script&gt;" in shown and "<script>" not in shown


def graph_of(function, *args):
    return torch.fx.experimental.proxy_tensor.make_fx(function)(*args).graph


@pytest.mark.parametrize(
    ("function", "kernels", "size"),
    [
        (lambda x: (x + 1) * 2, 1, 2 * 4 * 512),
        (lambda x: torch.softmax(x * 2, -1) + x, 1, 2 * 4 * 512),
        (lambda x: x / x.abs().amax(-1, keepdim=True), 1, 2 * 4 * 512),
        (lambda x: x / x.abs().amax(), 1, 2 * 4 * 512),
        (lambda x: x / x.repeat(64, 1).abs().amax(), 4, None),  # the readers of a reduction of all come after both its stages
        (lambda x: ((x + 1) @ x.t()) * 2, 3, None),
        (lambda x: x.view(-1).unsqueeze(0), 0, 0),
    ],
)
def test_what_inductor_makes_of_a_graph(function, kernels, size):
    cost = estimate_inductor(graph_of(function, torch.ones(16, 32)))
    assert cost.kernels == kernels
    assert size is None or cost.bytes == size
