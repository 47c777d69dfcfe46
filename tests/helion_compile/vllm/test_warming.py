"""helion_compile.vllm.warming: which kernel calls a model makes, and how their arguments depend on the number of tokens."""

import dataclasses
import logging
from types import SimpleNamespace

import pytest
import torch

from helion_compile import Case, kernel
from helion_compile.runtime.dry_run import collect_plan_requests, note_plan_request
from helion_compile.vllm import warming
from helion_compile.vllm.warming import Size, calls_of


def reference(x, weight, eps):
    return x * weight + eps


@kernel(reference=reference, case=lambda x, weight, eps: Case(num_tokens=x.size(0)))
def scale_rows(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    raise AssertionError("is not launched on a CPU")


def wanted(*args):
    """A call that has no launch plan, as one on a GPU tells it."""
    assert note_plan_request(scale_rows, args, scale_rows.plans, tuple(args[0].shape))


WEIGHT = torch.ones(48)


def test_calls_for_any_number_of_tokens():
    def run(tokens):
        for _ in range(3):  # layers
            wanted(torch.empty(tokens, 96)[:, :48], WEIGHT, 1e-6)
        wanted(torch.empty(2 * tokens, 48), WEIGHT, 1e-6)

    calls = calls_of(run)
    assert list(calls.values()) == [3, 1]
    halves, double = calls
    x, weight, eps = halves.args(1000)
    assert (x.shape, x.stride(), weight.shape, eps) == ((1000, 48), (96, 1), (48,), 1e-6)
    assert double.args(1000)[0].shape == (2000, 48)


def test_a_model_without_our_kernels_calls_nothing():
    assert not calls_of(lambda tokens: None)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda tokens: [wanted(torch.empty(tokens, 48), WEIGHT, 1e-6) for _ in range(tokens)], "calls other kernels for 5"),
        (lambda tokens: wanted(torch.empty(tokens, 48), WEIGHT, float(tokens)), "an argument is 5.0 for 5 tokens and 7.0"),
        (lambda tokens: wanted(torch.empty(48 if tokens == 5 else 51), WEIGHT, 1e-6), "a size is 48 for 5 tokens and 51"),
    ],
)
def test_calls_that_depend_on_more_than_sizes_are_refused(run, reason):
    with pytest.raises(ValueError, match=reason):
        calls_of(run)


@pytest.mark.parametrize(("sizes", "at_100"), [((5, 7), 100), ((48, 48), 48), ((15, 21), 300), ((8, 10), 103)])
def test_sizes(sizes, at_100):
    assert Size.of(sizes).at(100) == at_100


@dataclasses.dataclass
class ModelWorker:
    """What `warm` asks of a worker whose model makes the calls of ``step``."""

    step: object

    @property
    def vllm_config(self):
        return SimpleNamespace(scheduler_config=SimpleNamespace(max_num_batched_tokens=40))

    model_runner = None


def said_by_warming(step, caplog, monkeypatch):
    """What is logged, and the numbers of tokens that kernels were called with behind the dry runs."""
    called = []

    def warm_up(run, tokens, inputs, between):
        assert tokens == [40] and between
        with collect_plan_requests(lambda wanted: called.append((wanted.kernel.bare_name, wanted.arguments[0].shape[0]))):
            for count in (1, 16, 40):
                run(*inputs(count))
        return "warmed up"

    monkeypatch.setattr("helion_compile.vllm.log._said", set())
    monkeypatch.setattr(warming, "_dummy_run", lambda runner: step)
    monkeypatch.setattr(warming, "warm_up", warm_up)
    # On a CPU a kernel is its reference and asks for no plan.
    monkeypatch.setattr(type(scale_rows), "__call__", lambda self, *args: wanted(*args))
    monkeypatch.setattr(type(scale_rows), "pick", lambda self, args: SimpleNamespace(origin="exact"))
    with caplog.at_level(logging.INFO, "vllm.helion_compile"):
        warming.warm(ModelWorker(step))
    return [record.getMessage() for record in caplog.records if record.name == "vllm.helion_compile"], called


def test_each_kind_of_call_is_made_once_for_each_number_of_tokens(caplog, monkeypatch):
    def step(tokens):
        for _ in range(36):
            wanted(torch.empty(tokens, 48), WEIGHT, 1e-6)
            wanted(torch.empty(tokens, 96)[:, :48], WEIGHT, 1e-6)

    said, called = said_by_warming(step, caplog, monkeypatch)
    assert called == [("scale_rows", count) for count in (1, 16, 40) for _ in range(2)]
    assert said[0] == "helion_compile: a step of the model calls 72 x tests.helion_compile.vllm.test_warming::scale_rows"
    assert said[1].startswith("helion_compile: configs for up to 40 tokens: 6 x exact; warmed up; dry runs ")


def test_a_model_without_our_kernels_is_told(caplog, monkeypatch):
    said, called = said_by_warming(lambda tokens: None, caplog, monkeypatch)
    assert said == ["helion_compile: a step of the model calls no kernel of ours"] and not called


@dataclasses.dataclass
class Worker:
    """What `warm` asks of vLLM's worker."""

    model_runner: object = None

    @property
    def vllm_config(self):
        raise RuntimeError("another version")


def test_a_worker_of_another_version_serves_without_our_warm_up(caplog, monkeypatch):
    monkeypatch.setattr("helion_compile.vllm.log._said", set())
    for _ in range(2):
        warming.warm(Worker())
    (record,) = caplog.records
    assert record.getMessage() == (
        "helion_compile: the warm-up is off, first calls of some sizes compile while serving: RuntimeError: another version"
    )
