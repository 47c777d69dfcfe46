# SPDX-License-Identifier: Apache-2.0
"""What the backend logs for a call."""

import logging

import pytest
import torch
import torch._inductor.compile_fx

from tests.support.logged_model import arguments, model, no_autograd_cache


@pytest.fixture
def lines(caplog):
    """What the backend logs for a call, level by level; graphs from caches would be read in another test."""

    def of(call, level=logging.INFO):
        caplog.clear()
        no_cache = torch._inductor.config.patch(fx_graph_cache=False)
        with caplog.at_level(level, logger="helion_compile"), no_cache, no_autograd_cache():
            call()
        ours = [record for record in caplog.records if record.name.split(".")[0] == "helion_compile"]
        return [(record.levelname, record.getMessage()) for record in ours]

    return of


@pytest.fixture
def summary(lines):
    """The one line of a call of the compiled model."""

    def of(**how):
        (level, line), *warned = lines(lambda: torch.compile(model, backend="helion", fullgraph=True, **how)(*arguments()))
        assert level == "INFO"
        if warned:  # of a cause the first graph in which nothing was fused is told of
            assert line.startswith("nothing fused") and [level for level, _ in warned] == ["WARNING"]
        return line

    return of


@pytest.fixture
def small_programs():
    """Inductor's own parallel compilation would start a pool of processes for a second of work."""
    with torch._inductor.config.patch(compile_threads=1):
        yield
