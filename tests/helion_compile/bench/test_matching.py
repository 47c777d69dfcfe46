# SPDX-License-Identifier: Apache-2.0
"""helion_compile.bench.matching: what it times, and that the work grows as the graph does."""

import json
import sys

import pytest

from helion_compile.bench.matching import layers, main, measure, share_of_compiling
from helion_compile.fusions import fusions
from helion_compile.passes import FusionPass
from helion_compile.passes.match.matched_graph import match_graph


def test_everything_in_the_graph_is_matched_and_fused():
    figure = measure(1000)
    # A layer has a norm, a quantiser that three products share, and these products.
    assert figure.matches == 5 * figure.sites and figure.sites >= 10
    assert figure.nodes >= 1000


def calls_of(function, *args):
    """How many functions are called, Python's and C's: unlike seconds, the same each time and on each machine."""
    calls = 0

    def count(frame, event, _):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function(*args)
    finally:
        sys.setprofile(None)
    return calls


def test_work_is_linear_in_the_number_of_nodes():
    measure(200)  # what is done once
    graphs = layers(600), layers(1200), layers(2400)
    nodes = [len(graph.nodes) for graph in graphs]
    for work in (match_graph, FusionPass(fusions(), strict=True)):
        calls = [calls_of(work, graph) for graph in graphs]
        # Each further node costs as much, in a graph twice as large too; if calls grew with the square, twice as much.
        first, second = ((calls[i + 1] - calls[i]) / (nodes[i + 1] - nodes[i]) for i in (0, 1))
        assert second == pytest.approx(first, rel=0.1)


@pytest.mark.slow
def test_matching_is_less_than_a_hundredth_of_compiling():
    share = share_of_compiling(4)
    assert share.nodes > 400
    assert share.match_s < share.pass_s < share.compile_s
    assert share.match_s < 0.01 * share.compile_s


def test_the_figures_are_written(tmp_path, capsys):
    assert main(["--nodes", "200", "--layers", "0", "--json", str(tmp_path / "figures.json")]) == 0
    (figure,) = json.loads((tmp_path / "figures.json").read_text())["graphs"]
    assert figure["nodes"] == len(layers(200).nodes)
    assert f"{figure['nodes']:8} " in capsys.readouterr().out
