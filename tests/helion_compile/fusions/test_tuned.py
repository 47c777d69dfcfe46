# SPDX-License-Identifier: Apache-2.0
"""Chains that wait for a table: schemes, sizes and GPUs of which nothing was measured; as if a CPU were that GPU."""

import pytest
import torch

from helion_compile.configs.case import Case
from helion_compile.configs.row import Row
from helion_compile.configs.table import ConfigTable
from helion_compile.kernels import activation_quant, norm_quant
from helion_compile.passes.account.refusal import RefusalKind
from tests.support.corpus.norms import llama
from tests.support.corpus.quantisers import torchao_row
from tests.support.fusing import fused, randn, run
from tests.support.gpus import B200, H200, act_as

SCALE = torch.tensor([0.02])


@pytest.fixture(autouse=True)
def on_an_h200(monkeypatch):
    act_as(monkeypatch, H200)


def norm_then_quant(x, weight):
    return torchao_row(llama(x, weight))


def static(x):
    return (x.float() / SCALE).clamp(-448, 448).to(torch.float8_e4m3fn)


def static_activation(x, up):
    return static(torch.nn.functional.silu(x) * up)


def static_norm(x, weight):
    return static(llama(x, weight))


def any_number_of(*tensors):
    """The same tensors, for a graph that takes any number of rows."""
    for tensor in tensors:
        torch._dynamo.mark_dynamic(tensor, 0)
    return tensors


def kept(record):
    assert not record.sites
    (found,) = record.kept
    return found.refusal


def test_a_gpu_of_which_nothing_was_measured_keeps_inductors_kernels(monkeypatch):
    act_as(monkeypatch, B200)
    _, record = run(norm_then_quant, randn(4, 256), randn(256, seed=1))
    refusal = kept(record)
    assert refusal.kind is RefusalKind.UNTUNED
    assert "nothing says that norm_quant is faster here" in str(refusal) and "NVIDIA B200" in str(refusal)
    assert "untuned=True" in refusal.remedy


def test_untuned_fuses_there_all_the_same(monkeypatch):
    act_as(monkeypatch, B200)
    _, record = run(norm_then_quant, randn(4, 256), randn(256, seed=1), untuned=True)
    assert fused(record) == ["norm_quant"]


def test_a_table_for_the_gpu_is_enough(monkeypatch, tmp_path):
    act_as(monkeypatch, B200)
    table = ConfigTable("norm_quant", folders=[tmp_path])
    table.add([Row(Case(dtype="bf16", hidden_size=256, num_tokens=4, residual=False), {"num_warps": 1}, us=1.0)], B200)
    monkeypatch.setattr(norm_quant, "table", table)
    _, record = run(norm_then_quant, randn(4, 256), randn(256, seed=1))
    assert fused(record) == ["norm_quant"]


def test_rows_of_one_scheme_say_nothing_of_another(monkeypatch, tmp_path):
    act_as(monkeypatch, B200)
    table = ConfigTable("norm_quant", folders=[tmp_path])
    table.add([Row(Case(dtype="bf16", hidden_size=256, num_tokens=4, residual=False), {"num_warps": 1}, us=1.0)], B200)
    monkeypatch.setattr(norm_quant, "table", table)
    _, record = run(static_norm, randn(4, 256), randn(256, seed=1))
    assert kept(record).kind is RefusalKind.UNTUNED


def test_a_range_of_sizes_is_judged_by_its_scheme():
    _, record = run(norm_then_quant, *any_number_of(randn(4, 256)), randn(256, seed=1), dynamic=None)
    assert fused(record) == ["norm_quant"]


@pytest.mark.parametrize("mark", [lambda *tensors: tensors, any_number_of], ids=["size", "range"])
def test_with_a_static_scale_and_no_norm_inductors_kernel_is_as_fast(mark):
    _, record = run(static_activation, *mark(randn(4, 256), randn(4, 256, seed=1)), dynamic=None)
    refusal = kept(record)
    assert refusal.kind is RefusalKind.UNPROFITABLE and "no element needs its row" in str(refusal)


@pytest.mark.parametrize(("us", "expected"), [(2.0, ["activation_quant"]), (3.0, [])])
def test_unless_a_table_has_the_kernel_faster_for_so_many_tokens(monkeypatch, tmp_path, us, expected):
    case = Case(dtype="bf16", gated=True, hidden_size=256, num_tokens=1024, static=True)
    table = ConfigTable("activation_quant", folders=[tmp_path])
    table.add([Row(case, {"block_sizes": [1, 256]}, us=us, baselines={"inductor": 2.5})], H200)
    monkeypatch.setattr(activation_quant, "table", table)
    arguments = randn(1024, 256), randn(1024, 256, seed=1)
    _, record = run(static_activation, *arguments)
    assert fused(record) == expected
    _, record = run(static_activation, *any_number_of(*arguments), dynamic=None)
    assert not record.sites, "one graph serves few tokens too"


def test_a_norm_before_a_static_scale_fuses():
    _, record = run(static_norm, randn(4, 256), randn(256, seed=1))
    assert fused(record) == ["norm_quant"]


def test_untuned_leaves_what_is_no_gain_on_any_gpu(monkeypatch):
    act_as(monkeypatch, B200)
    _, record = run(lambda x, y: torchao_row(x * y), randn(4, 256), randn(4, 256, seed=1), untuned=True)
    assert "into whose kernel Inductor puts the quantiser" in str(kept(record))
