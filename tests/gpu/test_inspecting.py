# SPDX-License-Identifier: Apache-2.0
"""Looking at a model on a GPU: configs and their times in the report, kernels against their originals, ranges in a trace."""

import contextlib

import fp8_models
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import helion_compile
from helion_compile import explain, report
from helion_compile.passes.account.refusal import RefusalKind


@pytest.fixture(scope="module")
def model():
    model = fp8_models.qwen3(hidden_size=2048, intermediate_size=4096, num_attention_heads=16, num_key_value_heads=8)
    return fp8_models.quantize_fp8_per_row(model.to("cuda"))


@pytest.fixture(scope="module")
def ids(model):
    return fp8_models.token_ids(model, 2, 64)


@pytest.fixture(autouse=True)
def no_cache():
    """A graph from a cache is not read, and so not in a report."""
    with torch._inductor.config.patch(fx_graph_cache=False), torch.no_grad():
        yield


def test_the_report_has_configs_and_where_they_are_from(model, ids):
    for fused in explain(model, ids).sites:
        assert fused.config.origin in ("exact", "bucketed", "nearest", "default-case", "default")
        assert str(fused.config).endswith(")")
        if fused.config.origin in ("exact", "bucketed"):
            assert fused.config.us > 0


def test_with_dynamic_sizes_the_config_is_that_of_the_sizes_that_were_traced(model, ids):
    for fused in explain(model, ids, dynamic=True).sites:
        assert fused.config.origin == "run time"
        assert str(fused.config).startswith("picked at run time for each size")


@pytest.mark.parametrize("numerics", ["default", "exact"])
@pytest.mark.parametrize("tokens", [1, 17, 512])
def test_every_kernel_keeps_its_contract(model, numerics, tokens):
    found = explain(model, fp8_models.token_ids(model, 1, tokens), options={"numerics": numerics}, verify=True)
    compared = [each for fused in found.sites for each in fused.verified]
    assert compared
    print("\n".join(sorted({str(each) for each in compared})))
    assert [each for each in compared if each.broken] == []


def test_verify_leaves_a_right_model_fused(model, ids):
    compiled = torch.compile(model, backend="helion", options={"verify": True})
    compiled(ids)
    told = report(compiled)
    assert told.sites and all(fused.verified for fused in told.sites)
    # Others may stand there: the norm and RoPE of the keys are refused before anything is run.
    assert not [refusal for refusal in told.refusals if refusal.kind is RefusalKind.VERIFY]


@pytest.mark.parametrize(
    "asked", [contextlib.nullcontext, helion_compile.profiling], ids=["torch.profiler alone", "profiling()"]
)
def test_a_launch_is_inside_its_range(model, ids, asked):
    compiled = torch.compile(model, backend="helion")
    compiled(ids)
    with asked(), profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        compiled(ids)
        torch.cuda.synchronize()
    ranges = [event for event in profiler.events() if " model.layers.0." in event.name]
    assert {event.name.split()[0] for event in ranges} >= {"quant"}
    assert any(event.device_time_total > 0 for event in ranges), "no kernel's time is counted to a range"


def test_debug_leaves_a_graph_that_gives_the_recorded_results(model, ids, tmp_path):
    import importlib.util

    compiled = torch.compile(model, backend="helion")
    with helion_compile.debug(tmp_path):
        compiled(ids)
    file = tmp_path / "graph_1" / "after.py"
    spec = importlib.util.spec_from_file_location("after", file)
    after = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(after)
    assert all(map(torch.equal, after.run(), after.recorded()[2]))
