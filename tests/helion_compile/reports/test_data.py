# SPDX-License-Identifier: Apache-2.0
"""The JSON of a report keeps to its documented schema, whatever is in the report."""

import copy
import dataclasses
import json
import math

import fp8_models
import pytest
import torch
from torch import nn

from helion_compile import explain
from helion_compile.reports import Report
from helion_compile.verify import Compared
from tests.support.corpus.quantisers import torchao_row
from tests.support.report_schema import SCHEMA, problems


@pytest.fixture(scope="module")
def report():
    model = fp8_models.quantize_fp8_per_row(fp8_models.llama())
    return explain(model, fp8_models.token_ids(model, 2, 8), verify=True)


def per_tensor(x):
    return (x.float() / (x.abs().max() / 448.0).float()).to(torch.float8_e4m3fn)


def dynamic():
    x = torch.ones(8, 64, dtype=torch.bfloat16)
    torch._dynamo.mark_static(x, 1)
    return explain(torchao_row, x, dynamic=True)


REPORTS = {
    "refused": lambda: explain(per_tensor, torch.ones(8, 64)),
    "nothing quantised": lambda: explain(nn.Linear(8, 8).requires_grad_(False), torch.ones(2, 8)),
    "no graph": lambda: explain(lambda x: x, 3),
    "training": lambda: explain(nn.Linear(8, 8), torch.ones(2, 8)),
    "dynamic": dynamic,
}


def test_a_model(report):
    assert list(problems(json.loads(report.to_json()), SCHEMA)) == []


@pytest.mark.parametrize("name", REPORTS)
def test_reports_of_other_kinds(name):
    assert list(problems(json.loads(REPORTS[name]().to_json()), SCHEMA)) == []


def test_a_nan_has_no_distance_that_json_could_hold(report):
    (graph,) = report.graphs
    compared = Compared("q", "fp8 e4m3", math.inf, math.inf, 0.1, None, 30.0, "1 numbers are NaN")
    fused = dataclasses.replace(graph.fused[0], verified=(compared,))
    data = json.loads(Report((dataclasses.replace(graph, fused=(fused,)),)).to_json(), parse_constant=pytest.fail)
    assert list(problems(data, SCHEMA)) == []
    assert data["graphs"][0]["sites"][0]["verified"][0]["max_steps"] is None


def test_what_the_data_says(report):
    (graph,) = json.loads(report.to_json())["graphs"]
    site = graph["sites"][0]
    first = report.sites[0]
    assert site["kernel"] == first.kernel and site["place"]["line"] == first.site.location.line
    assert site["cost"]["before"] == {"kernels": first.before.kernels, "bytes": first.before.bytes}
    assert site["layer"] == "model.layers.0" and [each["name"] for each in graph["layers"]][:2] == ["", "model.layers.0"]
    for side, names in (("before", "replaced"), ("after", "nodes")):
        lines = {line["node"]: line for line in graph[side]["lines"]}
        assert all(name in lines for site in graph["sites"] for name in site[names])
        total = {unit: sum(line[unit] for line in lines.values()) for unit in ("kernels", "bytes")}
        assert total == {unit: sum(layer[side][unit] for layer in graph["layers"]) for unit in ("kernels", "bytes")}
    assert graph["after"]["code"] == report.graphs[0].after
    assert {compared["output"] for compared in site["verified"]} == {"q", "scale"}


def test_the_schema_finds_what_is_wrong(report):
    """So that the tests above can fail."""
    data = json.loads(report.to_json())
    for change, message in (
        (lambda data: data.pop("torch"), "$: 'torch' is a required property"),
        (lambda data: data["graphs"][0]["sites"][0].update(colour="red"), "'colour' was unexpected"),
        (lambda data: data["graphs"][0].update(nodes="many"), "'many' is not of type 'integer'"),
        (lambda data: data["graphs"][0]["sites"][0]["config"].update(origin="guessed"), "'guessed' is not one of"),
        (lambda data: data.update(version=1), "2 was expected"),
    ):
        changed = copy.deepcopy(data)
        change(changed)
        (problem,) = problems(changed, SCHEMA)
        assert message in problem


def test_layers(report):
    outside, first, second = report.graphs[0].layers
    assert (outside.name, first.name, second.name) == ("", "model.layers.0", "model.layers.1")
    assert outside.before == outside.after
    # Four sites a layer, each one kernel.
    saved = sum(fused.before.kernels - 1 for fused in report.sites)
    assert first.before.kernels - first.after.kernels + second.before.kernels - second.after.kernels == saved
