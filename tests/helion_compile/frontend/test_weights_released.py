# SPDX-License-Identifier: Apache-2.0
"""Nothing of ours outlives a compilation with a hold on weights: quantised ones can be moved, without a garbage collection.

``Module.to`` swaps a parameter that is a tensor subclass, and ``swap_tensors`` refuses one that a weak reference points to.
"""

import gc

import fp8_models
import pytest
import torch
from torch._inductor.utils import fresh_cache

import helion_compile
from helion_compile.graph import unwrap_subclasses
from helion_compile.reports import stored

pytestmark = pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "invalidate_compile_context_weakrefs"),
    reason="Dynamo itself keeps weak references to weights, under any backend",
)

K = 64
X = torch.randn(16, K).bfloat16()


class Linears(torch.nn.Sequential):
    device = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_cache():
    with fresh_cache(), torch._inductor.config.patch(fx_graph_cache=True), torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def no_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def make_model():
    torch.compiler.reset()
    norm, *linears = torch.nn.RMSNorm(K), *(torch.nn.Linear(K, K) for _ in range(2))
    return fp8_models.quantize_fp8_per_row(Linears(norm, *linears).bfloat16().eval().requires_grad_(False))


def compile_model(model, **options):
    compiled = torch.compile(model, backend="helion", **options)
    compiled(X)
    return compiled


def compile_without_its_report(model):
    for file in stored._folder().iterdir():
        file.unlink()
    return compile_model(model)


def debug(model, folder):
    with helion_compile.debug(folder):
        return compile_model(model)


USES = {
    "compiled": lambda model, _: compile_model(model),
    "from the cache": lambda model, _: compile_model(model),
    "from the cache, without its report": lambda model, _: compile_without_its_report(model),
    "from the cache, read": lambda model, _: helion_compile.report(compile_without_its_report(model)),
    "verified": lambda model, _: compile_model(model, options={"verify": True}),
    "dynamic": lambda model, _: compile_model(model, dynamic=True),
    "explained": lambda model, _: helion_compile.explain(model, X, verify=True),
    "debugged": debug,
}


def test_weights_that_were_taken_apart_can_be_moved(monkeypatch):
    """As up to torch 2.12."""
    monkeypatch.setattr(unwrap_subclasses, "is_needed", lambda: True)
    model = make_model()
    compiled = compile_model(model)
    model.to("meta")
    assert model[1].weight.is_meta and compiled is not None


@pytest.mark.parametrize("use", USES)
def test_weights_can_be_moved(use, tmp_path):
    model = make_model()
    kept = USES[use](model, tmp_path / "inside")
    model.to("meta")
    assert model[1].weight.is_meta and kept is not None
