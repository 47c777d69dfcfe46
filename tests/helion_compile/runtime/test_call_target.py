# SPDX-License-Identifier: Apache-2.0
"""Which config a plan is made with: as the table has it now, and what may not be made within a capture."""

import pytest
import torch

from helion_compile import Case, UnpreparedCaptureError
from helion_compile.configs.table import Gpu, Row
from helion_compile.runtime import call_target
from helion_compile.runtime.call_site import CallSite
from tests.support.launch_stub import X, expected, same, stub, tensor

pytestmark = pytest.mark.usefixtures("triton")


def table_with(tmp_path, *configs):
    table = stub.table
    table._folders = (tmp_path,)
    table.add([Row(Case(num_tokens=n), config) for n, config in configs], Gpu("NVIDIA H200", (9, 0)))
    return table


def test_plans_follow_the_table(tmp_path, triton, monkeypatch):
    monkeypatch.setattr(stub.table, "_folders", (tmp_path,))
    table = table_with(tmp_path, (4, {"num_warps": 1}))
    site = CallSite(stub.key, 1, 1, lambda x: (x, None, 1, 2.0))
    out = torch.empty(8, dtype=torch.int64)
    for _ in range(2):
        stub(X, None, 1, 2.0)
        site.call(X, out)
    assert triton.made == [{"num_warps": 1}]
    table.add([Row(Case(num_tokens=4), {"num_warps": 2})], Gpu("NVIDIA H200", (9, 0)))
    for _ in range(2):
        stub(X, None, 1, 2.0)
        site.call(X, out)
    assert triton.made[1:] == [{"num_warps": 2}]
    table.reload()
    assert len(stub.plans) == len(site.plans) == 0


def test_a_broken_config_is_marked_and_the_next_taken(tmp_path, triton, monkeypatch):
    monkeypatch.setattr(stub.table, "_folders", (tmp_path,))
    table_with(tmp_path, (4, {"num_warps": 3}), (16, {"num_warps": 4}))
    whole = call_target.make_host_function

    def hosts(kernel, args, config):
        if config == {"num_warps": 3}:
            raise RuntimeError("three warps")
        return whole(kernel, args, config)

    monkeypatch.setattr(call_target, "make_host_function", hosts)
    same((X, None, 1, 2.0))
    assert triton.made == [{"num_warps": 4}]
    assert len(stub.plans) == 1


def test_a_plan_made_from_a_table_that_changed_meanwhile_is_not_kept(triton, monkeypatch):
    whole = call_target.make_host_function

    def hosts(kernel, args, config):
        kernel.plans.clear()
        return whole(kernel, args, config)

    monkeypatch.setattr(call_target, "make_host_function", hosts)
    same((X, None, 1, 2.0))
    assert len(stub.plans) == 0


def test_a_capture_without_a_plan_is_refused(monkeypatch):
    same((X, None, 1, 2.0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    same((X, None, 1, 2.0))
    with pytest.raises(UnpreparedCaptureError, match="test_launch_stub.*num_tokens=16.*warm_up"):
        stub(tensor((16, 4)), None, 1, 2.0)


def test_a_capture_may_use_in_a_graph_what_an_eager_call_prepared(monkeypatch, triton):
    same((X, None, 1, 2.0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    site = CallSite(stub.key, 1, 1, lambda x: (x, None, 1, 2.0))
    out = torch.empty(8, dtype=torch.int64)
    site.call(X, out)
    words = expected((X, None, 1, 2.0), out)
    assert out[: len(words)].tolist() == words and len(triton.made) == 1


def test_one_choice_a_plan(monkeypatch):
    asked = []
    pick = stub.pick
    monkeypatch.setattr(stub, "pick", lambda args: asked.append(args) or pick(args))
    for _ in range(3):
        same((X, None, 1, 2.0))
    assert len(asked) == 1
