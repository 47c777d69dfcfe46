# SPDX-License-Identifier: Apache-2.0
"""Programmatic dependent launch on a GPU: between our kernels alone, and nothing is read too early."""

import pytest
import torch

from helion_compile.runtime import pdl
from tests.support.launch_kernels import mixed_rows


def x_of(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda", dtype=dtype)


def test_pdl_is_used_between_our_kernels_alone(monkeypatch):
    asked, follows = [], pdl.follows_pdl_kernel

    def note(stream):
        asked.append(follows(stream))
        return asked[-1]

    monkeypatch.setattr(pdl, "follows_pdl_kernel", note)
    x = x_of(7, 1024)
    mixed_rows(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = mixed_rows(mixed_rows(mixed_rows(mixed_rows(x)) * 1.0))
    assert asked == [False, True, False, True]
    graph.replay()
    want = x
    for _ in range(4):
        want = mixed_rows.reference(want)
    assert torch.equal(got, want)


@pytest.mark.parametrize("rows", [7, 4000])
def test_kernels_that_begin_early_read_what_the_one_before_wrote(rows):
    """A captured chain of dependent launches, whose buffers are used again and again, against the same chain run eagerly."""

    def chain(x):
        for _ in range(64):
            x = mixed_rows(x)
        return x

    x = x_of(rows, 1024)
    chain(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = chain(x)
    for _ in range(20):
        x.copy_(torch.randn_like(x) * 2.0**60)
        graph.replay()
        assert torch.equal(got, chain(x))
        want = x
        for _ in range(64):
            want = mixed_rows.reference(want)
        assert torch.equal(got, want)
