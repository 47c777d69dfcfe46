"""Graphs put together at random from spellings: replaced by what they were read as, they keep their bits."""

import pytest
import stubs
import torch
from checks import rewritten
from conformance import argument
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from spelled_norms import NORMS
from spelled_quantisers import QUANTISERS

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
ROWS, K = 6, 256
# What torch computes in a kernel of its own sums in another order; a group's scales are those of a matrix.
EXACT_NORMS = [row for row in NORMS if row.exact and row.residual]
# Hypothesis explains a failure by tracing every line that runs, which takes minutes of a compiler.
PHASES = [phase for phase in Phase if phase is not Phase.explain]
FUSIONS = (stubs.NORM_QUANTIZE, stubs.QUANTIZE, stubs.NORM)

stages = st.fixed_dictionaries(
    {
        "norm": st.sampled_from(EXACT_NORMS),
        "residual": st.booleans(),
        "shape": st.sampled_from([(ROWS, K), (2, 3, K), (ROWS, 1, K)]),
        "read": st.sets(st.sampled_from(["sum", "out", "q", "scale"]), max_size=2),
        "quantisers": st.lists(st.sampled_from(QUANTISERS), min_size=1, max_size=3),
    }
)
graphs = st.tuples(st.lists(stages, min_size=1, max_size=2), st.sampled_from([BF16, FP16, FP32]))


def program_of(plan, dtype):
    """A function of x, a residual and the rows' other operands, and its arguments."""
    operands = [torch.randn(ROWS, K, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1)]
    places = []  # for each call of a row, where its operands besides x are among the arguments

    def placed(row):
        names = [name for name in row.operands if name != "x"]
        given = [argument(name, row, dtype if dtype in row.dtypes else BF16) for name in names]
        given = [value.repeat(K)[:K] if value.dim() and value.numel() > 1 else value for value in given]
        places.append(range(len(operands), len(operands) + len(given)))
        operands.extend(given)

    for stage in plan:
        for row in (stage["norm"], *stage["quantisers"]):
            placed(row)

    def program(x, residual, *others):
        where = iter([[others[index - 2] for index in place] for place in places])
        outputs = []
        for stage in plan:
            x = x.reshape(stage["shape"])
            if stage["residual"]:
                x = x + residual.reshape(stage["shape"]).to(x.dtype)
                outputs += [x.sin()] if "sum" in stage["read"] else []
            x = stage["norm"].function(x, *next(where))
            outputs += [x.cos()] if "out" in stage["read"] else []
            for row in stage["quantisers"]:
                found = row.function(x.reshape(ROWS, K), *next(where))
                q, *rest = found if isinstance(found, tuple) else (found,)
                outputs += [q, *rest]
                outputs += [q.float().abs()] if "q" in stage["read"] else []
                outputs += [value.float() + 1 for value in rest] if "scale" in stage["read"] else []
            residual, x = x, (x * 0.5).to(dtype)
        return outputs

    return program, operands


def check(plan, dtype):
    torch._dynamo.reset()
    program, operands = program_of(plan, dtype)
    rewritten(program, *operands, fusions=FUSIONS)


@settings(max_examples=25, phases=PHASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(graphs)
def test_a_few_graphs(graph):
    check(*graph)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=1000, phases=PHASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs)
def test_many_graphs(graph):
    check(*graph)
