# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own ways of looking: printed graphs, and artifacts for tlparse."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from helion_compile import explain
from helion_compile.frontend import on_graph
from helion_compile.passes.account.records import GraphRecord, Site
from helion_compile.passes.ir.source_location import Location
from helion_compile.reports import Config, FusedSite, GraphReport
from helion_compile.reports.describing import annotate
from tests.support.corpus.quantisers import torchao_row

X = torch.randn(8, 64).bfloat16()


@pytest.fixture(autouse=True)
def no_cache():
    with torch._inductor.config.patch(fx_graph_cache=False):
        yield


PROGRAM = """
import torch

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.RMSNorm(64, eps=1e-6)

    def forward(self, x):
        x = self.norm(x)
        scale = (x.abs().amax(-1, keepdim=True) / 448.0).float()
        return (x.float() / scale).clamp(-448.0, 448.0).to(torch.float8_e4m3fn), scale

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Block(), Block()])

    def forward(self, x, y):
        return *self.layers[0](x), *self.layers[1](y)

x = torch.randn(8, 64).bfloat16()
with torch.no_grad():
    torch.compile(Model().bfloat16(), backend="helion", options={"numerics": "exact"})(x, x + 1)
"""


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """What a program prints under TORCH_LOGS, and the folder that it leaves its trace in."""
    folder = tmp_path_factory.mktemp("trace")
    (folder / "program.py").write_text(PROGRAM)
    env = os.environ | {
        "TORCH_LOGS": "post_grad_graphs",
        "TORCH_TRACE": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, folder / "program.py"], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr, folder


def test_printed_graphs_are_readable(looked_at):
    """Nodes are named after their kernel, with kernel, config and place beside them, and no hash anywhere."""
    printed = looked_at[0]
    nodes = re.findall(r" (\w+) = torch\.ops\.higher_order\.helion_kernel\((.*)\)", printed)
    assert [name for name, _ in nodes] == ["norm_quant", "norm_quant_1"]
    for _, arguments in nodes:
        assert arguments.endswith("kernel = 'helion_compile::norm_quant'") and "'float8_e4m3fn clamp=-448:448" in arguments
    assert not re.search(r"@[0-9a-f]{8}", printed)
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):  # 2.11 prints no annotations
        for layer in (0, 1):
            facts = {"kernel": "norm_quant", "config": "none, its reference runs", "for": f"layers.{layer}"}
            assert f"# Annotation: {facts}" in printed


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (Config("", {"block_sizes": [1], "num_warps": 8}, "exact"), "block_sizes=[1] num_warps=8"),
        (
            Config("", {"num_warps": 8}, "run time"),
            "num_warps=8 for the traced sizes, picked at run time",
        ),
        (Config("", None, "run time"), "picked at run time"),
        (Config("", None, "default"), "default"),
    ],
)
def test_configs_beside_printed_nodes(config, text):
    graph = torch.fx.Graph()
    node = graph.call_function(torch.sin, (graph.placeholder("x"),))
    site = Site("quant", Location("", "/elsewhere/mine.py", 7), (), {}, 1, node.name)
    annotate(graph, GraphReport(GraphRecord(), (FusedSite(site, "quant@1f3a5c77", config),)))
    assert node.meta["custom"] == {"kernel": "quant", "config": text, "for": "/elsewhere/mine.py:7"}


def test_the_trace_that_tlparse_reads(looked_at):
    """A line of JSON for each artifact, and its payload in the lines after, indented by a tab."""
    found = {}
    for file in looked_at[1].glob("*.log"):
        for entry in re.split(r"\n(?=V\d{4} )", file.read_text()):
            head, _, payload = entry.partition("\n")
            artifact = json.loads(head[head.index("{") :]).get("artifact", {})
            found[artifact.get("name")] = artifact.get("encoding"), re.sub(r"(?m)^\t", "", payload)
    assert "helion_kernel" not in found["helion_graph_before"][1] and "aten.amax" in found["helion_graph_before"][1]
    assert "norm_quant_1 = torch.ops.higher_order.helion_kernel(" in found["helion_graph_after"][1]
    encoding, payload = found["helion_report"]
    places = [site["place"]["module"] for site in json.loads(payload)["graphs"][0]["sites"]]
    assert encoding == "json" and places == ["layers.0", "layers.1"]


def test_artifacts_for_tlparse(monkeypatch):
    found = {}

    def trace_structured(name, metadata_fn=dict, *, payload_fn=lambda: None, **_):
        if name == "artifact" and metadata_fn()["name"].startswith("helion_"):
            found[metadata_fn()["name"]] = metadata_fn()["encoding"], payload_fn()

    monkeypatch.setattr(torch._logging, "trace_structured", trace_structured)
    torch.compile(torchao_row, backend="helion")(X)
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
    monkeypatch.setattr(on_graph, "Report", lambda graphs: pytest.fail("a payload was made"))
    monkeypatch.setattr(torch._logging._internal.trace_log, "handlers", [])
    on_graph.trace_report(None)


def test_a_model_in_which_nothing_is_fused_warns_once(caplog, monkeypatch):
    monkeypatch.setattr(on_graph, "_told", set())

    def warnings(reports, quiet=False):
        """What a model warns of, whose graphs are compiled in this order."""
        caplog.clear()
        reporter = on_graph.GraphReporter([], training=False, quiet=quiet)
        for report in reports:
            monkeypatch.setattr(on_graph, "describe", lambda *args, report=report, **about: report)
            monkeypatch.setattr(on_graph, "annotate", lambda *args: None)
            reporter.found.clear()
            reporter(torch.fx.Graph(), report.record)
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    linear = torch.nn.Linear(64, 64).bfloat16().requires_grad_(False)
    (nothing,), (fused,), (other,) = (explain(each, X).graphs for each in (linear, torchao_row, lambda x: x + 1))
    (told,) = warnings([other, nothing, nothing])
    assert told.startswith('backend="helion" fused nothing: No quantisation was found, and the products are 1 x aten.addmm')
    assert warnings([nothing]) == []  # the same reason once more
    on_graph._told.clear()
    assert warnings([fused, nothing]) == []
    assert warnings([nothing], quiet=True) == []  # as options={"only": []} asks for
    assert warnings([other]) == []  # nothing in it that might be
