# SPDX-License-Identifier: Apache-2.0
"""Launch plans in other places than the one they were made in: another GPU, another process."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

from helion_compile import UnpreparedCaptureError, counters
from helion_compile.runtime import dispatch
from helion_compile.runtime.call_site import CallSite
from tests.support import ROOT
from tests.support.launch_kernels import mixed

REST = (None, 2.0, 3, False)

several_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture(autouse=True)
def no_plans():
    mixed.plans.clear()


def x_on(device, rows=16):
    return torch.randn(rows, 64, device=torch.device("cuda", device))


def assert_right(got, x):
    for each, expected in zip(got, mixed.reference(x, *REST), strict=True):
        assert each.device == x.device
        torch.testing.assert_close(each, expected)


@several_gpus
def test_each_gpu_has_plans_of_its_own():
    before = counters.planned
    for _ in range(3):
        for device in range(torch.cuda.device_count()):
            x = x_on(device)
            assert_right(mixed(x, *REST), x)  # the current device stays the first
            with torch.cuda.device(device):
                assert dispatch.replay(mixed, (x, *REST)) is not dispatch.NOT_REPLAYED
    assert counters.planned - before == torch.cuda.device_count()
    assert torch.cuda.current_device() == 0


@several_gpus
def test_threads_on_several_gpus():
    wrong = []

    def work(device):
        for _ in range(200):
            x = x_on(device)
            try:
                assert_right(mixed(x, *REST), x)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(device,)) for device in range(torch.cuda.device_count()) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@several_gpus
def test_one_compiled_function_on_several_gpus():
    step = torch.compile(lambda x: mixed(x * 2, *REST), fullgraph=True)
    with torch.no_grad():
        for device in (0, 1, 0, 1):
            x = x_on(device)
            assert_right(step(x), x * 2)


def test_a_graphs_call_without_a_plan_is_refused_in_a_capture():
    x = x_on(0, rows=48)
    site = CallSite(mixed.key, 1, 2, lambda x: (x, *REST))
    with pytest.raises(UnpreparedCaptureError, match="test_launch_mixed.*case.*warm_up"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            site.call(x, torch.empty_like(x), torch.empty_like(x))
    torch.cuda.synchronize()


def test_a_graphs_call_may_use_in_a_capture_what_an_eager_call_prepared():
    x = x_on(0, rows=48)
    mixed(x, *REST)
    site = CallSite(mixed.key, 1, 2, lambda x: (x, *REST))
    outputs = torch.empty_like(x), torch.empty_like(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        site.call(x, *outputs)
    x.copy_(x_on(0, rows=48))
    graph.replay()
    assert_right(outputs, x)


FORKED = """
import os, sys
import torch
from tests.support.launch_kernels import mixed

def right():
    x = torch.randn(16, 64, device="cuda")
    torch.testing.assert_close(mixed(x, None, 2.0, 3, False), mixed.reference(x, None, 2.0, 3, False))

mixed.key  # as in a server that defines its kernels, and forks its workers
if sys.argv[1] == "used":
    right()
    x = torch.randn(16, 64, device="cuda")
child = os.fork()
if child == 0:
    code = 1
    try:
        if sys.argv[1] == "used":
            assert not mixed.plans
            try:
                mixed(x, None, 2.0, 3, False)
            except RuntimeError as error:
                code = 0 if "forked subprocess" in str(error) else 2
        else:
            right()
            code = 0
    finally:
        os._exit(code)
_, status = os.waitpid(child, 0)
right()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("parent", ["fresh", "used"])
def test_a_forked_child(parent):
    """It launches like any process, or gets torch's own error where CUDA was in use; never the plans of its parent."""
    paths = [ROOT, os.environ.get("PYTHONPATH", "")]
    # Importing Inductor, as Helion does, asks how many GPUs there are; torch 2.11 otherwise asks CUDA, and thereby uses it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    command = [sys.executable, "-c", textwrap.dedent(FORKED), parent]
    assert subprocess.run(command, env=environment, timeout=240).returncode == 0
