# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Triton, for tests of what is launched."""

import pytest
import torch

from tests.support.launch_stub import StubKernel, host_of, install, stub


@pytest.fixture
def triton(monkeypatch):
    """The stand-in; its ``made`` tells the config of each plan."""
    kernels = {}
    made = []

    def hosts(kernel, args, config):
        made.append(config)
        count = 5 + 2 * sum(arg.dim() for arg in args if torch.is_tensor(arg))
        return host_of(kernels.setdefault(count, StubKernel(count)))

    install(monkeypatch, hosts)
    stub.plans.clear()
    hosts.made = made
    return hosts
