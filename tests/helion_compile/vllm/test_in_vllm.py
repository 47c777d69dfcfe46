# SPDX-License-Identifier: Apache-2.0
"""The pass inside vLLM itself: its pass manager, its config's hash, its worker.  Needs vLLM (``make test-vllm``), no GPU."""

import copy
import dataclasses
import json
import logging
import pickle
import sys
from collections import Counter

import pytest
import torch

from tests.support.gpus import B200, act_as
from tests.support.vllm import recorded

pytest.importorskip("vllm.envs")  # "vllm" alone would find this folder

from vllm.compilation.passes.inductor_pass import InductorPass, pass_context
from vllm.compilation.passes.ir import clone_elimination
from vllm.compilation.passes.pass_manager import PostGradPassManager
from vllm.config import CompilationConfig, CompilationMode
from vllm.config.utils import Range
from vllm.platforms import current_platform
from vllm.ray.ray_env import get_env_vars_to_copy
from vllm.utils.import_utils import resolve_obj_by_qualname

import helion_compile.vllm
from helion_compile.configs.table import Gpu
from helion_compile.definitions.registry import find_kernel
from helion_compile.fusions import fusions
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import quant
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs
from helion_compile.passes.compat import VLLM
from helion_compile.passes.patterns.custom_ops.vllm_table import OPERATORS
from helion_compile.passes.semantics import Matmul, Norm
from helion_compile.vllm import fusion_pass as module
from helion_compile.vllm import hooks, plugin, warming
from helion_compile.vllm.options import OPTIONS, SWITCH
from tests.support.vllm.calls import Calls
from tests.support.vllm.recorded import SITES

pytestmark = pytest.mark.usefixtures("as_before")

H200 = Gpu("NVIDIA H200", (9, 0))
LAYER = SITES["token"][1]


def manager(config, *more):
    made = resolve_obj_by_qualname(current_platform.get_pass_manager_cls())()
    made.configure(config)
    for each in more:
        made.add(each)
    return made


def run(made, graph):
    with pass_context(Range(1, 16384)):
        made(graph)
    graph.lint()
    nodes = graph.find_nodes(op="call_function", target=helion_kernel)
    return Counter(find_kernel(node.kwargs["kernel"]).short_name for node in nodes)


def ours(made):
    (found,) = [each for each in made.passes if isinstance(each, helion_compile.vllm.FusionPass)]
    return found


@pytest.mark.parametrize("scheme", SITES)
def test_plugin_route(config, scheme):
    plugin.register()
    plugin.register()
    for graph, sites in zip(recorded.graphs(scheme), SITES[scheme], strict=True):
        made = manager(config)
        assert run(made, graph) == sites
        assert Counter(site.fusion for site in ours(made).records[0].sites) == sites


def test_slot_route(config):
    fusion_pass = helion_compile.vllm.FusionPass()
    given = CompilationConfig(inductor_compile_config={"post_grad_custom_post_pass": fusion_pass})
    kept = given.inductor_compile_config["post_grad_custom_post_pass"]
    assert isinstance(kept, InductorPass) and copy.deepcopy(kept) is kept
    for graph, sites in zip(recorded.graphs("token"), SITES["token"], strict=True):
        assert run(manager(config, kept), graph) == sites


def test_both_routes(config):
    plugin.register()
    middle = recorded.graph("token", 1)
    slot = helion_compile.vllm.FusionPass()
    assert run(manager(config, slot), middle) == LAYER
    assert not slot.records[0].sites


def test_what_is_left_is_lowered_by_vllm(config):
    plugin.register()
    for scheme in ("token", "tensor", "block"):
        middle = recorded.graph(scheme, 1)
        assert run(manager(config), middle)["norm_quant"] == 2
        assert not [node for node in middle.nodes if "vllm_ir" in str(node.target)]


def test_in_front_of_fusions_and_behind_communication():
    plugin.register()
    from helion_compile.vllm import manager as placing

    order = ["NoOpEliminationPass", "AllReduceFusionPass", "RMSNormQuantFusionPass", "ActivationQuantFusionPass"]
    passes = [type(name, (), {})() for name in order]
    placing.place(passes, helion_compile.vllm.FusionPass())
    assert [type(each).__name__ for each in passes] == [*order[:2], "FusionPass", *order[2:]]
    passes = []
    placing.place(passes, helion_compile.vllm.FusionPass())
    assert len(passes) == 1


def test_uuid_covers_what_decides_the_result(monkeypatch, tmp_path):
    make = helion_compile.vllm.FusionPass
    base = make().uuid()
    assert make().uuid() == base == pickle.loads(pickle.dumps(make())).uuid()
    assert len({base, make(disable=["quant"]).uuid(), make(numerics="exact").uuid(), make(gpu=H200).uuid()}) == 4
    monkeypatch.setenv("HELION_COMPILE_CONFIG_DIR", str(tmp_path))
    assert make().uuid() == base, "an empty folder of tables changes nothing"
    (tmp_path / "quant").mkdir()
    (tmp_path / "quant" / "nvidia_h200.json").write_text("[]")
    assert make().uuid() != base


def test_a_config_with_the_plugin_has_another_hash(config, monkeypatch):
    before = config.compute_hash()
    plugin.register()
    first = config.compute_hash()
    assert first != before and len(first) == len(before)
    monkeypatch.setenv(OPTIONS, '{"disable": ["quant"]}')
    plugin._identity.cache_clear()
    assert config.compute_hash() not in (before, first)


def test_options_of_the_plugin(config, monkeypatch):
    monkeypatch.setenv(OPTIONS, '{"disable": ["quant"]}')
    plugin.register()
    assert "quant" not in run(manager(config), recorded.graph("token", 1))


def test_ray_copies_our_variables_to_engines_and_workers(monkeypatch):
    monkeypatch.setenv("VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY", "")
    monkeypatch.setenv(OPTIONS, "{}")
    monkeypatch.setenv("HELION_COMPILE_CONFIG_DIR", "tables")
    plugin.register()
    assert {SWITCH, OPTIONS, "HELION_COMPILE_CONFIG_DIR"} <= get_env_vars_to_copy()


def warnings(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("vllm.helion_compile")
    ]


def test_without_a_gpu_one_warning_and_vllms_own_graph(config, monkeypatch, caplog):
    monkeypatch.setattr(module, "found_gpu", lambda: None)
    plugin.register()
    made = manager(config)
    for graph in recorded.graphs("token"):
        assert not run(made, graph)
    (found,) = warnings(caplog)
    assert "helion_compile: the fusions are off: vLLM runs on no NVIDIA GPU here" in found


def test_without_tables_for_the_gpu_a_warning_a_kernel_and_vllms_own_graph(config, monkeypatch, caplog):
    act_as(monkeypatch, B200)
    plugin.register()
    made = manager(config)
    for graph in recorded.graphs("token"):
        assert not run(made, graph)
    found = warnings(caplog)
    assert {line.split()[1] for line in found} == set(LAYER) and len(found) == len(LAYER)
    assert all("left to vLLM where no table has the case" in line and "NVIDIA B200" in line for line in found)


def test_untuned_fuses_without_tables_too(config, monkeypatch, caplog):
    act_as(monkeypatch, B200)
    monkeypatch.setenv(OPTIONS, json.dumps({"untuned": True}))
    plugin.register()
    assert run(manager(config), recorded.graph("token", 1)) == LAYER
    assert not warnings(caplog)


def test_a_vllm_without_the_interfaces_starts(monkeypatch, caplog):
    monkeypatch.delattr(type(current_platform), "get_pass_manager_cls")
    monkeypatch.delattr("vllm.platforms.interface.Platform.get_pass_manager_cls")
    plugin.register()
    (found,) = warnings(caplog)
    assert found.startswith("helion_compile: the plug-in is off: AttributeError")


def test_a_vllm_whose_modules_moved_keeps_its_pass_manager(config, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "helion_compile.vllm.manager", None)
    plugin.register()
    plugin.register()
    for _ in range(2):
        assert type(manager(config)) is PostGradPassManager
    (found,) = warnings(caplog)
    assert found.startswith("helion_compile: the plug-in is off: ModuleNotFoundError")


def test_a_vllm_that_cannot_be_asked_for_its_gpu_starts(config, monkeypatch, caplog):
    def fail():
        raise AttributeError("another platform")

    before = config.compute_hash()
    monkeypatch.setattr("helion_compile.vllm.identity.gpu", fail)
    plugin.register()
    assert config.compute_hash() == before and type(manager(config)) is PostGradPassManager
    assert warnings(caplog) == ["helion_compile: the plug-in is off: AttributeError: another platform"]


def test_an_operator_with_an_argument_that_is_not_known_stays_and_is_told_once(config, monkeypatch, caplog):
    name = "_C.per_token_group_fp8_quant.default"
    (known,) = OPERATORS[name]
    fewer = known.arguments.replace("scale_ue8m0 ", "")
    monkeypatch.setitem(OPERATORS, name, (dataclasses.replace(known, arguments=fewer),))
    plugin.register()
    for index in (1, 2):
        assert "quant" not in run(manager(config), recorded.graph("block", index))
    assert warnings(caplog) == [
        "helion_compile: operators stay as this vLLM has them: _C.per_token_group_fp8_quant is given scale_ue8m0=True; "
        "one with the arguments that passes/patterns/custom_ops lists can be read"
    ]


def test_an_operator_that_was_renamed_leaves_the_other_fusions(config, monkeypatch, caplog):
    for name in list(OPERATORS):
        if "rms_norm" in name:
            monkeypatch.delitem(OPERATORS, name)
    plugin.register()
    assert run(manager(config), recorded.graph("token", 1)) == {"activation_quant": 1, "quant": 3}
    assert not warnings(caplog)


@pytest.mark.parametrize(("version", "said"), [(VLLM[-1], 0), ("0.99.0", 1)])
def test_another_version_is_tried(config, monkeypatch, caplog, version, said):
    monkeypatch.setattr("vllm.__version__", version)
    plugin.register()
    with caplog.at_level(logging.INFO, "vllm.helion_compile"):
        assert run(manager(config), recorded.graph("token", 1)) == LAYER
    found = [record.getMessage() for record in caplog.records if "was not tested with" in record.getMessage()]
    assert len(found) == said and all(text.startswith("helion_compile: vLLM 0.99.0 was not tested with") for text in found)
    assert not warnings(caplog)


@pytest.mark.parametrize(
    ("options", "warning"),
    [('{"fast": true}', "there is no option 'fast'"), ('{"verify": true}', "verify is no option inside vLLM")],
)
def test_bad_options_leave_vllm_alone(config, monkeypatch, caplog, options, warning):
    monkeypatch.setenv(OPTIONS, options)
    plugin.register()
    assert not run(manager(config), recorded.graph("token", 0))
    (found,) = warnings(caplog)
    assert warning in found


def test_every_rank_has_the_same_identity(monkeypatch):
    found = set()
    for rank in range(2):
        for name in ("RANK", "LOCAL_RANK", "VLLM_DP_RANK"):
            monkeypatch.setenv(name, str(rank))
        found.add(helion_compile.vllm.FusionPass().uuid())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("mode", "name", "said"),
    [
        (CompilationMode.NONE, None, "with the compilation mode NONE vLLM runs no passes"),
        (
            CompilationMode.NONE,
            "VLLM_USE_BREAKABLE_CUDAGRAPH",
            "with VLLM_USE_BREAKABLE_CUDAGRAPH=1, which vLLM sets for some architectures, it compiles nothing; with 0 it "
            "compiles the model if it can",
        ),
        (CompilationMode.VLLM_COMPILE, None, "vLLM compiles no part of this architecture"),
    ],
)
def test_the_log_says_why_vllm_compiles_nothing(config, monkeypatch, caplog, mode, name, said):
    class Runner:
        def _dummy_run(self, tokens, **_):
            return torch.zeros(tokens)

        def get_model(self):
            return torch.nn.Linear(2, 2)

    class Worker:
        vllm_config = config
        model_runner = Runner()

    config.compilation_config.mode = mode
    if name:
        monkeypatch.setenv(name, "1")
    with caplog.at_level(logging.INFO, "vllm.helion_compile"):
        warming.warm(Worker())
    assert [record.getMessage() for record in caplog.records if record.name == "vllm.helion_compile"] == [
        f"helion_compile: a step of the model calls no kernel of ours: {said}"
    ]


def test_a_pass_that_fails_leaves_the_graph_and_says_so_once(config, monkeypatch, caplog):
    def fail(*args):
        raise RuntimeError("broken")

    monkeypatch.setattr("helion_compile.passes.rewrite.rewriting.match_graph", fail)
    plugin.register()
    for graph in recorded.graphs("token"):
        assert not run(manager(config), graph)
    (found,) = warnings(caplog)
    assert "RuntimeError: broken" in found


def test_our_node_is_no_write_to_vllms_clone_elimination():
    hooks.install()
    calls = Calls()
    clone = calls.call(torch.ops.aten.clone.default, calls.input(4, 64))
    text = QuantizeAttrs(torch.float8_e4m3fn).text
    kernels = [calls.call(helion_kernel, clone, None, None, text, False, kernel=quant.key) for _ in range(2)]
    calls.output(*kernels)
    assert not any(clone_elimination.user_writes_to_node(kernel, clone) for kernel in kernels)


SUMS = {fusion.name for fusion in fusions() if {Norm, Matmul} & set(fusion.chain)}


def test_batch_invariance_leaves_sums_to_vllm(config, monkeypatch, caplog):
    plugin.register()
    before = ours(manager(config)).uuid()
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    made = manager(config)
    for index in (1, 2):
        assert set(run(made, recorded.graph("token", index))) == {"activation_quant", "quant"}
    (found,) = warnings(caplog)
    names, _, reason = found.removeprefix("helion_compile: ").partition(" left to vLLM: ")
    assert {"norm_quant", "norm_rope", "scaled_mm"} <= set(names.split(", ")) <= SUMS
    assert reason.startswith("VLLM_BATCH_INVARIANT=1 wants the same bits for every number of tokens")
    assert ours(manager(config)).uuid() != before
