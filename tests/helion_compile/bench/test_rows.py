# SPDX-License-Identifier: Apache-2.0
"""Rows of the benchmarks, built on a CPU: kernels run as their references and times are made up."""

import json
import math

import pytest
import torch

from helion_compile.bench import chains, kernels, layers, rows, vllm_library
from helion_compile.bench.rows import Baseline, Rows, distance, measure, steps_apart, summary
from helion_compile.bench.subjects import LAYERS, SUBJECTS
from helion_compile.bench.work import Limits, Work, work_of, work_of_case
from helion_compile.configs.case import Case
from helion_compile.configs.gpu import Gpu
from helion_compile.fusions import CATALOGUE
from helion_compile.kernels import norm_quant, scaled_mm
from tests.support.needs import row_wise_products

LIMITS = Limits(4e12, 1e15)
SMALL = {"scaled_mm": 4096}  # K; weights come in the sizes of real models


@pytest.fixture
def no_gpu(monkeypatch):
    """Ours takes 2 us, the first baseline 3, the second 1; "Inductor" runs its function, an embedding in fp32 as it does."""
    monkeypatch.setattr(Gpu, "current", classmethod(lambda cls: Gpu("NVIDIA H200", (9, 0))))
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: in_fp32(function) if function in EMBEDDINGS else function
    )
    monkeypatch.setattr(rows, "machine", lambda: {"gpu": "none"})
    clock = iter([2.0, 3.0, 1.0])
    monkeypatch.setattr(rows, "device_us", lambda fn, sets, chained=False: next(clock))
    for module in (kernels, chains):
        monkeypatch.setattr(module, "rotating", lambda make, size: [make(), make()])


EMBEDDINGS = {subject.written for subject in SUBJECTS.values()}


def in_fp32(function):
    def run(x, *args):
        wide = [arg.float() if getattr(arg, "dtype", None) == torch.bfloat16 else arg for arg in (x, *args)]
        return function(*wide).to(x.dtype)

    return run


def first_facts(name, k):
    return next(iter(SUBJECTS[name].fields(k)))


@pytest.mark.parametrize("name", [name for name in SUBJECTS if "scaled_mm" not in name])
def test_every_subject_makes_a_row_whose_results_agree(no_gpu, name):
    row = kernels.row_of(name, first_facts(name, 256), 256, 8, LIMITS, device="cpu")
    assert row["us"] == 2.0 and row["baselines"] == {"inductor": 3.0}, row["notes"]
    assert not row["wrong"] and row["apart"]["inductor"]["steps"] <= 1
    assert row["limit"] == "memory" and row["limit_us"] == pytest.approx(row["bytes"] / 4e6)
    assert row["share"] == row["limit_us"] / 2.0 and row["operations"] > 0 and row["config"]


@pytest.mark.parametrize("name", [name for name in SUBJECTS if "scaled_mm" not in name])
def test_inductor_gets_one_graph(name):
    """Of two it would make two kernels, and what lies between would be written and read."""
    subject = SUBJECTS[name]
    arguments = subject.arguments(subject.case(first_facts(name, 256), 8), torch.device("cpu"))
    torch.compiler.reset()
    torch.compile(subject.written or subject.kernel.reference, fullgraph=True, backend="eager")(*subject.prepare(*arguments))


@row_wise_products
def test_a_product_is_measured_against_the_library(no_gpu):
    fields = {"k": 64, "n": 48, "operands": "e4m3", "scales": "row", "fast_accum": True, "library": "torch"}
    row = kernels.row_of("scaled_mm", fields, 64, 16, LIMITS, device="cpu")
    assert row["baselines"] == {"library": 3.0} and not row["wrong"], row["notes"]
    assert row["products"] == 2 * 16 * 48 * 64 and row["n"] == 48


@row_wise_products
def test_a_chain_is_measured_against_all_ways_to_mix_it(no_gpu):
    row = chains.row_of(64, 48, 16, LIMITS, device="cpu")
    assert row["baselines"] == {"inductor, library": 3.0, "inductor, then ours": 1.0} and not row["wrong"], row["notes"]
    assert set(row["config"]) == {"norm_quant", "scaled_mm"}


def test_every_kernel_of_the_catalogue_is_a_subject():
    assert {subject.kernel for subject in SUBJECTS.values()} == {k for module in CATALOGUE for k in module.KERNELS}
    assert set(vllm_library.OPERATORS) <= set(SUBJECTS)
    assert all(list(SUBJECTS["scaled_mm"].fields(k)) for k in (4096, 5120, 8192, 12288)) and len(LAYERS) == 4


def test_a_k_of_no_whole_groups_or_heads_has_no_row():
    fields = {name: [*SUBJECTS[name].fields(192)] for name in ("quant", "quant group", "rope", "scaled_mm")}
    assert fields == {"quant": [{"hidden_size": 192}], "quant group": [], "rope": [], "scaled_mm": []}
    assert all(list(subject.fields(4096)) for subject in SUBJECTS.values())


def test_an_operator_that_is_not_there_is_a_note_and_no_claim(no_gpu):
    row = kernels.row_of("quant group", first_facts("quant group", 256), 256, 8, LIMITS, vllm=True, device="cpu")
    assert row["baselines"]["vllm"] is None and "Error: " in row["notes"]["vllm"]
    assert [figure.baseline for figure in summary([row])] == ["inductor"]


def test_a_wrong_result_is_said_and_fails_the_run(no_gpu, capsys, tmp_path):
    def ours(x):
        return (x * 4).to(torch.float8_e4m3fn)

    inductor = Baseline("inductor", lambda x: x.to(torch.float8_e4m3fn), check=steps_apart)
    row = measure({"kernel": "k", "m": 8, "k": 8}, ours, [(torch.ones(8),)], [inductor], Work(8, 8), LIMITS)
    assert row["wrong"] == ["16 steps from inductor's result"]
    found = Rows(LIMITS, tmp_path / "rows.json")
    found.add(row)
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == [row]  # before the end
    assert found.end() == 1 and "wrong: k at K=8 M=8: 16 steps" in capsys.readouterr().out


def test_a_wrong_result_is_said_of_a_baseline_that_cannot_be_timed_too(no_gpu, monkeypatch):
    def timed(fn, sets, chained=False):
        if fn is not ours:
            raise RuntimeError("it cannot be captured")
        return 2.0

    def ours(x):
        return x * 2

    monkeypatch.setattr(rows, "device_us", timed)
    other = Baseline("library", lambda x: x, check=distance(0.1))
    row = measure({"kernel": "k", "m": 8}, ours, [(torch.ones(8),)], [other], Work(8, 8), LIMITS)
    assert row["baselines"] == {"library": None} and row["notes"] == {"library": "RuntimeError: it cannot be captured"}
    assert row["wrong"] == ["1.0e+00, more than 0.1 from library's result"]


def test_checks():
    one = torch.tensor([1.0, 2.0])
    assert distance(0.1)(one, one * 1.5) == ({"distance": pytest.approx(1 / 3)}, "3.3e-01, more than 0.1")
    assert steps_apart(one.bfloat16(), one.bfloat16()) == ({"steps": 0.0, "differ": 0.0}, None)
    near = torch.nextafter(one.bfloat16(), torch.tensor(9.0).bfloat16())
    assert steps_apart(near, one.bfloat16()) == ({"steps": 1.0, "differ": 1.0}, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_nan_is_wrong_unless_it_is_in_both(dtype):
    numbers, nan = torch.tensor([1.0, 448.0]).to(dtype), torch.tensor([1.0, float("nan")]).to(dtype)
    assert steps_apart(numbers, nan) == steps_apart(nan, numbers) == ({"steps": math.inf, "differ": 0.5}, "inf steps")
    assert steps_apart(nan, nan) == ({"steps": 0.0, "differ": 0.0}, None)


def test_the_summary_has_mean_bands_worst_row_and_losses():
    def row(m, us, share):
        return {"kernel": "k", "m": m, "k": 4096, "us": us, "baselines": {"inductor": 2.0, "vllm": None}, "share": share}

    (figure,) = summary([row(1, 1.0, 0.1), row(64, 2.02, 0.2), row(256, 4.0, 0.3), row(4096, 1.0, 0.9), row(8192, 1.0, 0.8)])
    assert (figure.rows, figure.losses, figure.clear, figure.share) == (5, 2, 1, 0.8)
    assert figure.worst == 0.5 and figure.worst_at["m"] == 256
    assert figure.bands == (pytest.approx((2 / 1.01) ** 0.5), 0.5, pytest.approx(2.0))
    assert figure.mean == pytest.approx((2 * 2 / 2.02 * 0.5 * 2 * 2) ** 0.2)


def test_bytes_and_operations_are_those_of_the_arguments_and_the_reference():
    work = work_of_case(norm_quant, Case(hidden_size=64, num_tokens=4, dtype="bf16", residual=True))
    assert work.bytes == 4 * 64 * (2 + 2 + 2 + 1) + 64 * 2 + 4 * 4  # x, residual, sum, bytes, weight, scales
    assert work.products == 0 and 7 * 4 * 64 < work.operations < 12 * 4 * 64
    fields = {"num_tokens": 4, "operands": "e4m3", "dtype": "bf16", "scales": "row", "fast_accum": True, "library": "torch"}
    work = work_of_case(scaled_mm, Case(k=64, n=32, **fields))
    assert work.bytes == 4 * 64 + 32 * 64 + 4 * 4 + 32 * 4 + 4 * 32 * 2 and work.products == 2 * 4 * 64 * 32
    x = torch.ones(4, 4)
    adding = type(
        "Adding", (), {"reference": staticmethod(torch.add), "flatten_results": staticmethod(lambda value: (value,))}
    )
    assert work_of(adding, (x, x)) == Work(2 * x.nbytes, 16)  # one tensor, read once


def test_what_limits_a_call():
    assert LIMITS.least(Work(4_000_000, 9)) == (1.0, "memory")
    assert LIMITS.least(Work(4_000_000, 5 * 10**9, 5 * 10**9)) == (5.0, "arithmetic")
    assert Limits(4e12).least(Work(4_000_000, 5 * 10**9, 5 * 10**9)) == (1.0, "memory")


def test_a_layer_is_compared_with_every_mode_and_with_its_products():
    def measured(us):
        return {"layer_us": us, "kernels_us": 90.0, "compile_s": 9.0, "result": torch.ones(4)}

    row = layers.row_of({"helion a": measured(100.0), "inductor a": measured(250.0)}, 16, 1, LIMITS)
    assert row["baselines"] == {"inductor a": 250.0} and row["m"] == 16 and row["apart"]["inductor a"] == {"distance": 0.0}
    weights = 4096 * (4096 * 2 + 2 * 1024) + 3 * 4096 * 12288
    assert row["products"] == 2 * 16 * weights and weights < row["bytes"] < 1.1 * weights
    assert summary([row])[0].mean == pytest.approx(2.5)


def test_names_that_fit_no_kernel_are_answered_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        kernels.main(["--kernels", "norms_*quant"])
    assert "no kernel is called norms_*quant; there are norm_quant, " in capsys.readouterr().err


def test_a_library_that_is_missing_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(vllm_library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(vllm_library.MissingLibrary, match="no folder named vllm with .* is on Python's path; install vLLM"):
        vllm_library.load()
    with pytest.raises(vllm_library.MissingLibrary, match="cannot be loaded into torch"):
        vllm_library.load(str(tmp_path / "none.so"))
