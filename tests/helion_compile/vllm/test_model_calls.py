# SPDX-License-Identifier: Apache-2.0
"""helion_compile.vllm.model_calls: which kernel calls a model makes, and how their arguments depend on the tokens."""

from fractions import Fraction

import pytest
import torch

from helion_compile import Case, kernel
from helion_compile.runtime.dry_run import note_plan_request
from helion_compile.vllm.model_calls import Size, find_calls

TOKENS = (5, 7, 11)


def reference(x, weight, eps):
    return x * weight + eps


@kernel(reference=reference, case=lambda x, weight, eps: Case(num_tokens=x.size(0)))
def scale_rows(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    raise AssertionError("is not launched on a CPU")


@kernel(reference=reference, case=lambda x, weight, eps: Case(num_tokens=x.size(0)))
def scale_other_rows(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    raise AssertionError("is not launched on a CPU")


def wanted(*args, kernel=scale_rows):
    """A call that has no launch plan, as one on a GPU tells it."""
    assert note_plan_request(kernel, args, kernel.plans, tuple(args[0].shape))


WEIGHT = torch.ones(48)


def rows(count, **more):
    wanted(torch.empty(count, 48), WEIGHT, 1e-6, **more)


def test_calls_for_any_number_of_tokens():
    def run(tokens):
        for _ in range(3):  # layers
            wanted(torch.empty(tokens, 96)[:, :48], WEIGHT, 1e-6)
        rows(2 * tokens)

    found = find_calls(run, TOKENS)
    assert list(found.known.values()) == [3, 1] and not found.unknown
    halves, double = found.known
    x, weight, eps = halves.args(1000)
    assert (x.shape, x.stride(), weight.shape, eps) == ((1000, 48), (96, 1), (48,), 1e-6)
    assert double.args(1000)[0].shape == (2000, 48)
    assert (halves.rows_per_token, double.rows_per_token) == (1, 2)


def test_a_model_without_our_kernels_calls_nothing():
    found = find_calls(lambda tokens: None, TOKENS)
    assert not found.known and not found.unknown


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda tokens: [rows(tokens) for _ in range(tokens)], "it is called 5, 7 and 11 times for 5, 7 and 11 tokens"),
        (lambda tokens: wanted(torch.empty(tokens, 48), WEIGHT, float(tokens)), "an argument is 5.0, 7.0 and 11.0 for 5, 7"),
        (lambda tokens: rows(-8 * (tokens // -8)), "a size is 8, 8 and 16 for 5, 7 and 11 tokens"),  # vLLM rounds up
        (lambda tokens: rows(min(tokens, 8)), "a size is 5, 7 and 8 for 5, 7 and 11 tokens"),  # a draft of few sequences
        (lambda tokens: rows(16 - tokens), "a size is 11, 9 and 5 for 5, 7 and 11 tokens"),
    ],
)
def test_each_call_is_judged_for_itself(run, reason):
    def step(tokens):
        rows(tokens, kernel=scale_other_rows)
        run(tokens)

    found = find_calls(step, TOKENS)
    (known,) = found.known
    assert known.kernel is scale_other_rows and known.args(100)[0].shape == (100, 48)
    ((kernel, said),) = found.unknown
    assert kernel is scale_rows and said.startswith(reason)


def test_tokens_that_ranks_share():
    """Sequence parallelism: a rank has a part of the tokens, which vLLM makes a multiple of the ranks."""
    found = find_calls(lambda tokens: rows(-(tokens // -4)), (20, 28, 44))
    (call,) = found.known
    assert call.rows_per_token == Fraction(1, 4)
    assert [call.args(tokens)[0].shape[0] for tokens in (1, 4, 5, 1000)] == [1, 1, 2, 250]


def test_a_call_of_fixed_sizes_has_no_rows_per_token():
    (call,) = find_calls(lambda tokens: rows(4), TOKENS).known
    assert call.rows_per_token is None


@pytest.mark.parametrize(
    ("sizes", "at_100"), [((5, 7, 11), 100), ((48, 48, 48), 48), ((15, 21, 33), 300), ((8, 10, 14), 103), ((3, 4, 6), 51)]
)
def test_sizes(sizes, at_100):
    assert Size.of(TOKENS, sizes).at(100) == at_100
