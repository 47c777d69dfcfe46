"""PyTorch's own ways of looking: printed graphs, and artifacts for tlparse."""

import json
import logging

import pytest
import torch

from helion_compile import telling

X = torch.randn(8, 64).bfloat16()


def quantize(x):
    scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
    return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale


@pytest.fixture(autouse=True)
def no_cache():
    with torch._inductor.config.patch(fx_graph_cache=False):
        yield


def test_printed_graphs_say_kernel_config_and_place(caplog):
    torch._logging.set_logs(post_grad_graphs=True)
    try:
        logging.getLogger("torch").propagate = True
        with caplog.at_level(logging.DEBUG, "torch._inductor.compile_fx.__post_grad_graphs"):
            torch.compile(quantize, backend="helion")(X)
    finally:
        torch._logging.set_logs(post_grad_graphs=False)
    printed = next(record.getMessage() for record in caplog.records if "AFTER POST GRAD" in record.getMessage())
    assert " quant = torch.ops.higher_order.helion_kernel(" in printed
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):  # 2.11 prints no annotations
        assert "Annotation: {'kernel': 'quant', 'config': 'reference'" in printed


def test_artifacts_for_tlparse(monkeypatch):
    found = {}

    def trace_structured(name, metadata_fn=dict, *, payload_fn=lambda: None, **_):
        if name == "artifact" and metadata_fn()["name"].startswith("helion_"):
            found[metadata_fn()["name"]] = metadata_fn()["encoding"], payload_fn()

    monkeypatch.setattr(torch._logging, "trace_structured", trace_structured)
    torch.compile(quantize, backend="helion")(X)
    assert {name: encoding for name, (encoding, _) in found.items()} == {
        "helion_graph_before": "string",
        "helion_graph_after": "string",
        "helion_report": "json",
    }
    assert "amax" in found["helion_graph_before"][1] and "helion_kernel" not in found["helion_graph_before"][1]
    assert "quant = torch.ops.higher_order.helion_kernel(" in found["helion_graph_after"][1]
    assert json.loads(found["helion_report"][1])["graphs"][0]["sites"][0]["fusion"] == "quant"


def test_without_a_trace_no_payload_is_made(monkeypatch):
    """What tracing costs where nobody traces: the calls alone."""
    monkeypatch.setattr(telling, "Report", lambda graphs: pytest.fail("a payload was made"))
    monkeypatch.setattr(torch._logging._internal.trace_log, "handlers", [])
    telling.trace(None)
