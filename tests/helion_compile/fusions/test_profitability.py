# SPDX-License-Identifier: Apache-2.0
"""Chains that stay with Inductor, where the tables say that its kernel is faster; as if a CPU were an H200."""

import pytest
import torch

from helion_compile import fusions
from helion_compile.configs.case import Case
from helion_compile.configs.gpu import Gpu
from helion_compile.configs.row import Row
from helion_compile.configs.table import ConfigTable
from helion_compile.frontend.capture import make_inspecting_backend
from helion_compile.fusions import profitability
from helion_compile.fusions.tuned import is_inductors
from helion_compile.kernels import activation_quant, norm_quant, quant
from tests.support.corpus.norms import llama
from tests.support.corpus.quantisers import torchao_row
from tests.support.fusing import fused, randn, run
from tests.support.gpus import H200, act_as
from tests.support.needs import row_wise_products

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def as_if_on_an_h200(monkeypatch):
    act_as(monkeypatch, H200)


def norm_then_quant(x, weight):
    return torchao_row(llama(x, weight))


def add_norm_quant(x, weight, residual):
    return *torchao_row(llama(x + residual, weight)), x + residual


def activation(x, up):
    return torchao_row(torch.nn.functional.silu(x) * up)


def call_of(name, case):
    """A function whose chain is of that case, and its arguments."""
    shape = case["num_tokens"], case["hidden_size"]
    if name == "quant":
        return torchao_row, randn(*shape)
    if name == "activation_quant":
        return activation, randn(*shape), randn(*shape, seed=1)
    if case["residual"]:
        return add_norm_quant, randn(*shape), randn(shape[1], seed=1), randn(*shape, seed=2)
    return norm_then_quant, randn(*shape), randn(shape[1], seed=1)


ROWS = [(kernel.short_name, row) for kernel in (norm_quant, quant, activation_quant) for row in kernel.table.rows(H200)]
PER_TOKEN = [(name, row) for name, row in ROWS if not {"static", "group", "kind"} & set(row.case.fields)]
SHIPPED = [(name, row) for name, row in PER_TOKEN if row.case["num_tokens"] <= 2 and row.case["hidden_size"] <= 6144]


@pytest.mark.parametrize(("name", "row"), SHIPPED, ids=[f"{name} {row.case}".replace(" ", "-") for name, row in SHIPPED])
def test_what_runs_is_what_the_shipped_table_has_as_the_faster_one(name, row):
    _, record = run(*call_of(name, row.case))
    us, inductor = row.us, row.baselines["inductor"]
    if us <= 1.02 * inductor:
        assert fused(record) == [name] and not record.kept
        return
    assert not record.sites and not record.refusals and not record.unfused
    (kept,) = record.kept
    assert kept.fusion == name and kept.nodes
    assert str(kept.refusal).startswith(
        f"Inductor's kernel is faster for this case, {inductor:.2f} us against {us:.2f} us on NVIDIA H200 (measured for "
    )


def test_some_cases_stay_and_most_do_not():
    assert sum(profitability.beaten_by_inductor(row) for _, row in ROWS) < len(ROWS) / 10
    beaten = [row for _, row in PER_TOKEN if profitability.beaten_by_inductor(row)]
    assert 0 < len(beaten) < len(PER_TOKEN) / 20
    assert all(row.case["num_tokens"] <= 2 for row in beaten)


@row_wise_products
def test_projections_share_one_quantiser_that_stays():
    def projections(x, weight, w):
        normed = llama(x, weight)
        return [torch._scaled_mm(*scaled(normed, w[i : i + 16])) for i in (0, 16, 32)]

    def scaled(x, w):
        q, scale = torchao_row(x)
        return q, w.t(), scale, torch.ones(1, 16), None, None, torch.bfloat16

    found = []
    backend = make_inspecting_backend(found, options={"strict": True, "disable": ["scaled_mm"]})
    args = randn(1, 2048), randn(2048, seed=1), randn(48, 2048, seed=2).to(torch.float8_e4m3fn)
    results = torch.compile(projections, backend=backend, fullgraph=True)(*args)
    (inspected,) = found
    assert not inspected.record.sites and [kept.fusion for kept in inspected.record.kept].count("norm_quant") == 1
    assert inspected.record.before.count("amax.default(") == 3 and inspected.record.after.count("amax.default(") == 1
    targets = [node.target for node in inspected.module.graph.nodes]
    assert targets.count(aten.amax.default) == 1 and targets.count(aten._scaled_mm.default) == 3
    kept = next(kept for kept in inspected.record.kept if kept.fusion == "norm_quant")
    assert kept.merged == 3 and set(kept.nodes) <= {node.name for node in inspected.module.graph.nodes}
    torch._dynamo.reset()
    for result, expected in zip(results, projections(*args), strict=True):
        assert torch.equal(result, expected)


def test_exact_takes_the_kernel():
    _, record = run(norm_then_quant, randn(1, 2048), randn(2048), numerics="exact")
    assert fused(record) == ["norm_quant"]


def test_a_range_of_sizes_takes_the_kernel():
    x = randn(2, 4096)
    torch._dynamo.mark_dynamic(x, 0)
    _, record = run(torchao_row, x, dynamic=None)
    assert fused(record) == ["quant"]
    _, record = run(torchao_row, randn(2, 4096))
    assert not record.sites


def test_rows_of_another_gpu_are_no_comparison(monkeypatch):
    act_as(monkeypatch, Gpu("NVIDIA H100 80GB HBM3", (9, 0)))
    _, record = run(norm_then_quant, randn(1, 2048), randn(2048))
    assert fused(record) == ["norm_quant"]


def test_a_row_speaks_for_the_sizes_that_are_rounded_up_to_it(monkeypatch, tmp_path):
    table = ConfigTable("quant", folders=[tmp_path])
    slower = {"us": 2.0, "baselines": {"inductor": 1.5}}
    table.add([Row(Case(dtype="bf16", hidden_size=64, num_tokens=4), {"num_warps": 4}, **slower)], H200)
    monkeypatch.setattr(quant, "table", table)
    kept = {tokens: not run(torchao_row, randn(tokens, 64))[1].sites for tokens in (2, 3, 4, 5)}
    assert kept == {2: True, 3: True, 4: True, 5: False}


def test_a_chain_of_operators_that_inductor_only_calls_takes_the_kernel():
    @torch.library.custom_op("test_choosing::cast", mutates_args=())
    def cast(x: torch.Tensor) -> torch.Tensor:
        return x.float()

    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    ours, theirs = graph.call_function(aten.abs.default, (x,)), graph.call_function(torch.ops.test_choosing.cast.default, (x,))
    chain = type("Chain", (), {"nodes": {ours: None}})
    assert is_inductors(chain)
    chain.nodes = {ours: None, theirs: None}
    assert not is_inductors(chain)


def test_on_a_cpu_nothing_is_left(monkeypatch):
    monkeypatch.undo()
    _, record = run(norm_then_quant, randn(1, 2048), randn(2048))
    assert fused(record) == ["norm_quant"]


def test_the_choice_is_part_of_the_key_of_compile_caches():
    for kernel in (norm_quant, quant, activation_quant):
        assert kernel.table.fingerprint() in fusions.identity("default")
