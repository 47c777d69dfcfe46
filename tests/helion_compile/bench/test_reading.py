"""helion_compile.bench.reading: what it times, and that the time grows as the graph does."""

import json

from helion_compile.bench.reading import layers, main, measure


def test_everything_in_the_graph_is_read_and_fused():
    figure = measure(1000)
    # A layer has a norm, a quantiser that three products share, and these products.
    assert figure.regions == 5 * figure.sites and figure.sites >= 10
    assert figure.nodes >= 1000


def test_time_is_linear_in_the_number_of_nodes():
    measure(200)  # what is done once
    small, large = measure(2000), measure(20_000)
    # Ten times the nodes: quadratic growth would take 100 times as long.
    assert large.read_s < 30 * small.read_s
    assert large.pass_s < 30 * small.pass_s
    assert large.read_s < large.pass_s


def test_the_figures_are_written(tmp_path, capsys):
    assert main(["--nodes", "200", "--json", str(tmp_path / "figures.json")]) == 0
    (figure,) = json.loads((tmp_path / "figures.json").read_text())
    assert figure["nodes"] == len(layers(200).nodes)
    assert f"{figure['nodes']:8} " in capsys.readouterr().out
