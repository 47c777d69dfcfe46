# SPDX-License-Identifier: Apache-2.0
"""Running a function before and after the pass, and asking why it was left alone."""

from __future__ import annotations

from pathlib import Path

import torch

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.match.matched_graph import match_graph
from helion_compile.passes.rewrite.fusion_pass import FusionPass
from tests.support import ROOT, programs, stubs
from tests.support.capture import capture
from tests.support.corpus import quantisers


def by_name(function):
    return getattr(function, "__name__", str(function))


def targets(graph):
    return [node.target for node in graph.nodes if node.op == "call_function"]


def calls(graph, *functions):
    return [sum(target is function for target in targets(graph)) for function in functions]


def assert_same_bits(found, expected):
    flat, expected = torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(expected)
    assert len(flat) == len(expected)
    for left, right in zip(flat, expected, strict=True):
        assert left.dtype == right.dtype and left.shape == right.shape
        as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in (left, right)]
        assert torch.equal(*as_bytes)


def assert_near(found, expected):
    """Equal but for the order of summation: 64 ulp of fp32, and one step of a 16-bit dtype on top."""
    step = 2**-17 if found.dtype == torch.float32 else torch.finfo(found.dtype).eps
    torch.testing.assert_close(found.float(), expected.float(), rtol=step, atol=2**-17)


def refused(candidate, function, *args, dynamic=False):
    """The reason for which the one candidate of a function was not matched."""
    matched = match_graph(capture(function, *args, dynamic=dynamic).graph)
    assert not matched.matches
    (refusal,) = matched.refusals
    assert refusal.candidate == candidate
    assert Path(refusal.location.file).is_relative_to(ROOT / "tests")
    assert isinstance(refusal.kind, RefusalKind) and refusal.found and refusal.remedy
    return str(refusal)


def rewritten(function, *args, fusions=stubs.ALL, dynamic=False, **options):
    """The function before and after the pass give the same bits; the captured result and its record."""
    before = capture(function, *args, dynamic=dynamic)
    fusion_pass = FusionPass(fusions, strict=True, **options)
    after = capture(function, *args, graph_pass=fusion_pass, dynamic=dynamic)
    assert_same_bits(after(*args), before(*args))
    (record,) = fusion_pass.records
    return after, record


def projections(x, residual, weight, b, b_scale):
    total = x + residual
    normed = programs.llama_norm(total, weight)
    return [programs.matmul(*quantisers.torchao_row(normed), b, b_scale) for _ in range(3)], total


PROJECTIONS = (programs.tensor(2, 8, 64), programs.tensor(2, 8, 64, seed=1), programs.tensor(64), *programs.weights())
