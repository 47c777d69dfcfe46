# SPDX-License-Identifier: Apache-2.0
"""helion_compile.vllm.warming: what is compiled before the first request, and what the log says of it."""

import contextlib
import dataclasses
import logging
from types import SimpleNamespace

import pytest
import torch

from helion_compile import Case, kernel
from helion_compile.runtime.dry_run import collect_plan_requests, note_plan_request
from helion_compile.vllm import warming
from helion_compile.vllm.warming import choose_dry_sizes


def reference(x, weight, eps):
    return x * weight + eps


@kernel(reference=reference, case=lambda x, weight, eps: Case(num_tokens=x.size(0)))
def scale_rows(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    raise AssertionError("is not launched on a CPU")


def wanted(*args):
    """A call that has no launch plan, as one on a GPU tells it."""
    assert note_plan_request(scale_rows, args, scale_rows.plans, tuple(args[0].shape))


WEIGHT = torch.ones(48)


def vllm_config(tokens=40, sequences=256, ranks=1, mode=3, **more):
    """What a warm-up asks of a ``VllmConfig``."""
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_batched_tokens=tokens, max_num_seqs=sequences),
        parallel_config=SimpleNamespace(tensor_parallel_size=ranks, world_size_across_dp=1),
        compilation_config=SimpleNamespace(mode=mode, compile_mm_encoder=more.get("encoder", False)),
        model_config=SimpleNamespace(enforce_eager=more.get("eager", False)),
    )


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (vllm_config(8192), (5, 7, 11)),
        (vllm_config(8192, ranks=4), (20, 28, 44)),  # vLLM makes the tokens of a step a multiple of the ranks
        (vllm_config(8192, sequences=8), (2, 3, 5)),
        (vllm_config(8192, sequences=1), (1, 2, 3)),
        (vllm_config(8), (2, 3, 5)),
        (vllm_config(5), (1, 2, 3)),  # a step of 5 tokens was made before the warm-up
    ],
)
def test_sizes_of_dry_runs(config, sizes):
    assert choose_dry_sizes(config) == sizes


def test_a_step_of_two_tokens_has_no_dry_runs():
    with pytest.raises(ValueError, match=r"up to 2 tokens \(max_num_batched_tokens\); dry runs have 1, 2, 3"):
        choose_dry_sizes(vllm_config(2))


@pytest.fixture
def said_by_warming(caplog, monkeypatch):
    """Warms up a model that makes the calls of ``step``: what is logged, and the rows that kernels were called with."""

    def said_by_warming(step, config=None, runner=None):
        config = config or vllm_config()
        called = []

        def warm_up(run, tokens, inputs, between):
            assert between
            with collect_plan_requests(lambda wanted: called.append((wanted.kernel.bare_name, wanted.arguments[0].shape[0]))):
                for count in (1, *tokens):
                    run(*inputs(count))
            return "warmed up"

        monkeypatch.setattr("helion_compile.vllm.log._said", set())
        monkeypatch.setattr(warming, "_dummy_run", lambda runner: step)
        monkeypatch.setattr(warming, "warm_up", warm_up)
        # On a CPU a kernel is its reference and asks for no plan.
        monkeypatch.setattr(type(scale_rows), "__call__", lambda self, *args: wanted(*args))
        monkeypatch.setattr(type(scale_rows), "pick", lambda self, args: SimpleNamespace(origin="exact"))
        monkeypatch.setattr(warming, "_explain_no_graphs", lambda *args: "")
        with caplog.at_level(logging.INFO, "vllm.helion_compile"):
            warming.warm(SimpleNamespace(vllm_config=config, model_runner=runner))
        said = [record.getMessage() for record in caplog.records if record.name == "vllm.helion_compile"]
        return [
            each.removeprefix("helion_compile: ").replace("tests.helion_compile.vllm.test_warming::", "") for each in said
        ], called

    return said_by_warming


def rows(count):
    wanted(torch.empty(count, 48), WEIGHT, 1e-6)


def test_each_kind_of_call_is_made_once_for_each_number_of_tokens(said_by_warming):
    def step(tokens):
        for _ in range(36):
            rows(tokens)
            wanted(torch.empty(tokens, 96)[:, :48], WEIGHT, 1e-6)

    said, called = said_by_warming(step)
    assert called == [("scale_rows", count) for count in (1, 40) for _ in range(2)]
    assert said[0] == "a step of the model calls 72 x scale_rows"
    assert said[1].startswith("configs for up to 40 tokens: 4 x exact; warmed up; dry runs ")
    assert len(said) == 2


def test_calls_are_warmed_up_by_their_own_rows(said_by_warming):
    """Configs change where a kernel's own rows do, whatever part of the tokens these are."""
    config = vllm_config(400, ranks=4)
    _, called = said_by_warming(lambda tokens: (rows(tokens // 4), rows(3 * tokens)), config)
    assert called == [("scale_rows", count) for count in (1, 100, 1, 1200)]


def test_what_was_not_understood_is_not_said_to_be_warmed_up(said_by_warming):
    said, called = said_by_warming(lambda tokens: rows(-8 * (tokens // -8)))
    assert said == [
        "a step of the model calls 1 x scale_rows",
        "not warmed up, first calls of some sizes compile while serving: "
        "1 x scale_rows (a size is 8, 8 and 16 for 5, 7 and 11 tokens)",
    ]
    assert not called


def test_a_size_that_never_changes_is_warmed_up_alone(said_by_warming):
    said, called = said_by_warming(lambda tokens: (rows(4), rows(4), rows(tokens)))
    assert called == [("scale_rows", count) for count in (4, 4, 1, 40)]
    assert said[2] == "warmed up for the sizes of the dry runs alone, which were the same in all of them: 2 x scale_rows"


def test_encoders_are_told_of(said_by_warming):
    said, _ = said_by_warming(rows, vllm_config(encoder=True))
    assert said[-1] == "compiled encoders of images and sound are not warmed up, their first calls compile"


def test_experts_are_not_given_the_load_of_dry_runs(said_by_warming):
    suppressed = []

    @contextlib.contextmanager
    def suppress():
        suppressed.append(True)
        yield
        suppressed.pop()

    seen = []
    said_by_warming(
        lambda tokens: seen.append(list(suppressed)), runner=SimpleNamespace(eplb=SimpleNamespace(suppress=suppress))
    )
    assert seen == [[True]] * 3 and not suppressed


def test_ranks_that_disagree_make_no_dry_runs(said_by_warming, monkeypatch):
    monkeypatch.setattr(warming, "_ask_ranks", lambda *args: "rank 1 said nothing")
    said, called = said_by_warming(lambda tokens: pytest.fail("a dry run"))
    assert said == ["the warm-up is off, first calls of some sizes compile while serving: rank 1 said nothing"]
    assert not called


def test_a_model_without_our_kernels_is_told(said_by_warming):
    said, called = said_by_warming(lambda tokens: None)
    assert said == ["a step of the model calls no kernel of ours"] and not called


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
