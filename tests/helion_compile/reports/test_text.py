# SPDX-License-Identifier: Apache-2.0
"""The report as text: everything is in it, nothing is cut off, and what happens alike is told once."""

import dataclasses

import pytest
import torch

from helion_compile.passes.account.records import GraphRecord, Site, Unfused
from helion_compile.passes.account.refusal import Detail, Refusal, RefusalKind
from helion_compile.passes.ir.graph_listing import Line
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.semantics import Matmul, Norm, NormKind, NormRounding, Quantize, ScaleUse
from helion_compile.reports import Config, Cost, FusedSite, GraphReport, Report
from helion_compile.reports.text import render
from helion_compile.verify import Compared

FILE = "/home/someone/.venv/lib/python3.11/site-packages/transformers/models/qwen3/modeling_qwen3.py"
BF16 = torch.bfloat16
NORM = Norm(eps=1e-6, x_dtype=BF16, dtype=BF16, weight_dtype=BF16, rounding=NormRounding.CAST_THEN_SCALE, residual=True)
QUANTIZE = Quantize(
    x_dtype=BF16, dtype=torch.float8_e4m3fn, qmax=448.0, scale_dtype=BF16, use=ScaleUse.DIVIDE, clamp=(-448.0, 448.0)
)
OPS = (NORM, QUANTIZE)
SHAPES = {
    "x": "bf16[2, 8, 4096]",
    "weight": "bf16[4096]",
    "residual": "bf16[2, 8, 4096]",
    "sum": "bf16[2, 8, 4096]",
    "q": "fp8 e4m3[2, 8, 4096]",
    "scale": "fp32[2, 8, 1]",
}
CONFIG = "{'block_sizes': [1], 'num_warps': 4} (rounded up to (hidden_size=4096 num_tokens=32): row 12 of nvidia_h200.json)"

NO_FUSION = Refusal(RefusalKind.NO_FUSION, "mul_9", "no fusion in use takes RMSNorm", "a fusion that takes it")
UNFUSED = Unfused(NORM, Location("model.norm", FILE, 60), "mul_9", NO_FUSION)


PICKED = Config(CONFIG, us=2.5, baselines={"inductor": 3.5})
BEFORE, AFTER = Cost(27, 509_312), Cost(1, 29_248)


def site(module="model.layers.0.mlp.gate_proj", *, line=81, merged=2, **changes):
    whole = Site("norm_quant", Location(module, FILE, line), OPS, SHAPES, merged, "norm_quant")
    return FusedSite(
        dataclasses.replace(whole, **changes),
        "norm_quant@849b98ec",
        PICKED,
        BEFORE,
        AFTER,
    )


def refusal(module="model.norm", node="rsqrt_4", eps="add_4"):
    detail = Detail("eps", f"aten.add.Tensor ({eps})", "aten.add.Tensor")
    found, remedy = "eps is known at run time only, it is {eps}", "a constant eps fuses"
    where = Location(module, FILE, 60)
    return Refusal(RefusalKind.CONSTANT, node, found, remedy, (detail,), candidate="norm", location=where)


def report(*fused, refusals=(), kept=(), training=False, **facts):
    record = GraphRecord(sites=[f.site for f in fused], refusals=list(refusals), kept=list(kept), nodes=485, **facts)
    return Report((GraphReport(record, tuple(fused), training),))


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_everything_is_in_it_at_any_width(width):
    kept = site(ops=(Matmul(dtype=BF16),), fusion="matmul").site
    text = render(report(site(), refusals=[refusal()], kept=[kept] * 14, unfused=[UNFUSED] * 5), width)
    assert "…" not in text and "..." not in text
    for line in text.splitlines():
        assert len(line) <= max(width, 13 + len("transformers/models/qwen3/modeling_qwen3.py:81"))
        assert line == line.rstrip() and "\N{NO-BREAK SPACE}" not in line
    flat = " ".join(text.split())
    for shown in (
        "norm_quant in model.layers.0.mlp.gate_proj",
        "source transformers/models/qwen3/modeling_qwen3.py:81",
        "ops " + " -> ".join(map(str, OPS)),
        "shapes " + ", ".join(f"{name} {shape}" for name, shape in SHAPES.items()),
        "merged 2 copies that the model computes become one",
        "kernel norm_quant@849b98ec",
        "config " + CONFIG,
        "refused: norm in model.norm",
        "source transformers/models/qwen3/modeling_qwen3.py:60",
        "node rsqrt_4",
        "found eps is known at run time only, it is aten.add.Tensor (add_4) fuses a constant eps fuses",
        "kept: 14 x Matmul(scaled by row and column, bf16)",
        "unfused: RMSNorm in model.norm (5 times)",
        f"op {NORM} found no fusion in use takes RMSNorm",
        "cost as written 27 kernels that move 509 kB; now 1 and 29.2 kB, 480 kB saved",
        "table 2.5 µs a call (inductor 3.5)",
        "Total: 1 norm_quant, 14 matmul kept, 1 refused.",
    ):
        assert shown in flat


def test_a_shape_and_a_path_are_never_broken():
    text = render(report(site()), 45)  # less than the path takes
    for whole in (*SHAPES.values(), "transformers/models/qwen3/modeling_qwen3.py:81"):
        assert whole in text


def test_the_same_in_many_layers_is_told_once():
    fused = [site(f"model.layers.{layer}.mlp.gate_proj") for layer in (0, 1, 2, 3, 5, 7, 8, 10)]
    text = render(report(*fused), 100)
    assert "  norm_quant in model.layers.0-3,5,7-8,10.mlp.gate_proj (8 times)\n" in text
    assert text.count("config") == 1
    assert "Total: 8 norm_quant, 0 refused." in text


def test_the_cost_of_a_graph_and_of_each_layer_alike_ones_once():
    def line(layer, kernels, size):
        return Line(f"node_{layer}", "", "", Location(f"model.layers.{layer}.mlp" if layer else "", FILE, 81), kernels, size)

    before = (line("", 2, 1000), *(line(layer, 30, 500_000) for layer in "0123"))
    after = (line("", 2, 1000), line("0", 9, 90_000), *(line(layer, 8, 80_000) for layer in "123"))
    text = render(report(site(), site(), lines_before=before, lines_after=after), 120)
    assert (
        "  cost: as written 122 kernels that move 2 MB; now 35 and 331 kB, 1.67 MB saved\n"
        "    layers   model.layers.0: 30 kernels that move 500 kB; now 9 and 90 kB, 410 kB saved\n"
        "             model.layers.1-3 (3 times): 30 kernels that move 500 kB; now 8 and 80 kB, 420 kB saved\n"
    ) in text
    assert "layers " not in render(report(lines_before=before, lines_after=before), 120)  # nothing fused, nothing changed


@pytest.mark.parametrize("size, text", [(999, "999 B"), (999_499, "999 kB"), (999_500, "1 MB"), (2_340_000_000, "2.34 GB")])
def test_sizes_have_three_digits_and_no_exponent(size, text):
    fused = dataclasses.replace(site(), before=Cost(27, size), after=Cost(1, 0))
    assert f"cost as written 27 kernels that move {text}; now 1 and 0 B" in " ".join(render(report(fused), 200).split())


def test_what_differs_in_a_fact_is_told_apart():
    first = site("model.layers.0.mlp.gate_proj")
    others = [
        site("model.layers.1.mlp.gate_proj", merged=1),
        site("model.layers.2.mlp.gate_proj", line=99),
        site("model.layers.3.mlp.gate_proj", shapes=SHAPES | {"x": "bf16[1, 1, 4096]"}),
        site("model.layers.4.mlp.up_proj"),
        dataclasses.replace(site("model.layers.5.mlp.gate_proj"), config=Config("default")),
    ]
    text = render(report(first, *others), 100)
    assert text.count("norm_quant in ") == 6
    assert "times)" not in text


def test_experts_in_layers():
    fused = [site(f"model.layers.{layer}.experts.{expert}.up") for layer in (0, 1) for expert in (0, 1, 2)]
    assert "model.layers.0-1.experts.0-2.up (6 times)" in render(report(*fused), 100)


def test_a_refusal_in_many_layers_is_told_once():
    refusals = [refusal(f"model.layers.{n}.norm", f"rsqrt_{n}", f"add_{n}") for n in range(3)]
    text = render(report(refusals=[*refusals, refusal()]), 100)
    assert text.count("refused: ") == 2
    assert "refused: norm in model.layers.0-2.norm (3 times)" in text
    assert "4 refused" in text


def test_what_is_kept_is_told_with_the_reason():
    slower = Refusal(RefusalKind.UNPROFITABLE, "mul_9", "Inductor's kernel is faster", "a faster kernel fuses")
    kept = [site(refusal=slower).site] * 3
    text = " ".join(render(report(kept=kept), 120).split())
    assert f"kept: 3 x {NORM} -> {QUANTIZE} found Inductor's kernel is faster fuses a faster kernel fuses" in text


def test_a_layer_norm_is_called_one():
    layer = dataclasses.replace(NORM, kind=NormKind.LAYER, residual=False)
    text = render(report(unfused=[dataclasses.replace(UNFUSED, op=layer)]), 120)
    assert "unfused: LayerNorm in model.norm" in text and "op       LayerNorm(eps=1e-06, bf16" in text


def test_a_function_has_no_module():
    assert "norm_quant in the function itself (2 times)" in render(report(site(""), site("")), 100)


def test_the_width_of_the_terminal(monkeypatch):
    narrow, wide = (monkeypatch.setenv("COLUMNS", columns) or str(report(site())) for columns in ("80", "160"))
    assert max(map(len, narrow.splitlines())) <= 80
    assert 120 < max(map(len, wide.splitlines())) <= 160


def test_a_failure():
    error = "the fusion pass failed in build of 'quant': RuntimeError: no kernel; the graph is compiled without fusions"
    text = " ".join(render(report(error=error), 80).split())
    assert f"Nothing fused: {error}" in text
    assert "Total: nothing fused, 0 refused." in text
    assert "quantised" not in text  # the hint for a model without quantisers


def test_a_refusal_tells_apart_what_was_found_and_what_would_fuse():
    near = {"matched": ("the cast", "x by the scale"), "missing": ("the scale",)}
    refused = dataclasses.replace(refusal(), **near)
    text = " ".join(render(report(refusals=[refused]), 120).split())
    assert "near matched 2 of 3 steps, missing: the scale found eps is known at run time only, it is" in text


def test_verified_shows_the_worst_of_alike_sites_and_all_that_is_broken():
    fine = Compared("q", "fp8 e4m3", 32.0, 1.0, 0.04, 60.0, 35.0)
    bad = Compared("q", "fp8 e4m3", 400.0, 9.0, 0.5, 3.0, 35.0, "9 steps")
    fused = [
        dataclasses.replace(site("model.layers.0.mlp.gate_proj"), verified=(fine,)),
        dataclasses.replace(site("model.layers.1.mlp.gate_proj"), verified=(bad,)),
    ]
    text = " ".join(render(report(*fused), 120).split())
    assert "verified q: 50.00% differ, by up to 9 steps (400), 3.0 dB against fp64 (original 35.0 dB)" in text
    assert "broken model.layers.1.mlp.gate_proj: q: 9 steps" in text


def test_in_a_terminal_it_has_colours_and_in_a_pipe_none(capsys, monkeypatch):
    whole = report(site(), refusals=[refusal()])
    whole.print()
    plain = capsys.readouterr().out
    assert "\x1b" not in plain and "refused: norm in model.norm" in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    whole.print()
    coloured = capsys.readouterr().out
    assert "\x1b[1;32m" in coloured and "\x1b[1;33m" in coloured


def test_paths_of_a_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Location("", FILE, 7).source == "transformers/models/qwen3/modeling_qwen3.py:7"
    assert (
        Location("", "/usr/lib/python3/dist-packages/torch/nn/modules/linear.py", 7).source == "torch/nn/modules/linear.py:7"
    )
    assert Location("", str(tmp_path / "models" / "mine.py"), 7).source == "models/mine.py:7"
    assert Location("", "/elsewhere/mine.py", 7).source == "/elsewhere/mine.py:7"
    assert Location("", "", 0).source == "unknown source line"
    assert str(Location("model.norm", FILE, 7)) == "model.norm (transformers/models/qwen3/modeling_qwen3.py:7)"
