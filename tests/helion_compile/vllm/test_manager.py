# SPDX-License-Identifier: Apache-2.0
"""helion_compile.vllm.manager: where our pass stands among vLLM's, also where vLLM is not installed."""

import importlib
import sys
from types import ModuleType

import pytest

from helion_compile.vllm import plugin


@pytest.fixture
def place(monkeypatch):
    for name in ("vllm", "vllm.utils", "vllm.utils.import_utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vllm.utils.import_utils"].resolve_obj_by_qualname = lambda name: object
    ours = ModuleType("helion_compile.vllm.fusion_pass")
    ours.FusionPass = object
    monkeypatch.setitem(sys.modules, ours.__name__, ours)
    monkeypatch.setattr(plugin, "original_manager", lambda: "builtins.object")
    monkeypatch.delitem(sys.modules, "helion_compile.vllm.manager", raising=False)
    yield importlib.import_module("helion_compile.vllm.manager").place
    sys.modules.pop("helion_compile.vllm.manager")


BEFORE = ["NoOpEliminationPass", "SequenceParallelismPass", "AllReduceFusionPass"]
BEHIND = ["RMSNormQuantFusionPass", "ActivationQuantFusionPass"]


@pytest.mark.parametrize(
    ("passes", "index"),
    [
        ([], 0),
        (BEHIND, 0),
        (BEFORE, 3),
        ([*BEFORE, *BEHIND], 3),
        (["CleanUpPass", BEFORE[0], *BEHIND], 2),
        (["CleanUpPass"], 0),
    ],
    ids=str,
)
def test_in_front_of_fusions_and_behind_communication(passes, index, place):
    made = [type(name, (), {})() for name in passes]
    ours = object()
    place(made, ours)
    assert made.index(ours) == index and len(made) == len(passes) + 1
