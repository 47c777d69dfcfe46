# SPDX-License-Identifier: Apache-2.0
"""Pictures of rows: from the files of the benchmarks and from config tables, the same every time."""

import importlib.util
import json
from pathlib import Path

import pytest

from helion_compile.bench import plot, plots
from helion_compile.bench.work import Limits
from helion_compile.configs.files import shipped_folder
from tests.support import ROOT

TABLE = shipped_folder() / "norm_quant" / "nvidia_h200.json"
DOCS = ROOT / "docs" / "measurements"
KINDS = [
    "norm_quant",
    "norm_quant, residual",
    "norm_quant, group 128",
    "norm_quant, group 128, residual",
    "norm_quant, residual, static",
    "norm_quant, static",
]


def row(kernel="k", m=1, us=2.0, **baselines):
    sizes = {"m": m, "k": 4096, "bytes": 1000 * m, "operations": 9000 * m, "products": 0}
    return {"kernel": kernel, **sizes, "us": us, "baselines": baselines}


def saved(path, *rows):
    path.write_text(json.dumps({"limits": {"copy_bandwidth": 4e12, "product_rate": 1e15}, "rows": rows}))
    return path


def test_a_table_has_a_panel_a_kind_and_a_line_a_width(tmp_path):
    rows, limits = plot.read(TABLE)
    assert limits is None and {row["kernel"] for row in rows} == set(KINDS)
    figure = plots.speedup(rows, "inductor")
    assert sorted(axis.get_title() for axis in figure.axes) == sorted(KINDS)
    for axis in figure.axes:
        widths = {row["k"] for row in rows if row["kernel"] == axis.get_title()}
        assert len(axis.lines) == 1 + len(widths)  # and the line at 1
    (first,) = (axis for axis in figure.axes if axis.get_title() == "norm_quant")
    xs, ys = first.lines[1].get_data()
    own = sorted(
        (row["m"], row["baselines"]["inductor"] / row["us"])
        for row in rows
        if row["kernel"] == "norm_quant" and row["k"] == 2048
    )
    assert list(zip(xs, ys, strict=True)) == own


def test_the_roof_is_the_copy_and_the_large_product():
    figure = plots.roofline([row(m=m, us=2.0 + m, inductor=3.0) for m in (1, 16, 4096)], Limits(4e12, 2e13))
    left, right = figure.axes
    (xs, ys), (flat, top) = (line.get_data() for line in left.lines)
    assert ys[0] / xs[0] == pytest.approx(4e12) and xs[1] == flat[0] == 5.0 and list(top) == [2e13, 2e13]
    assert right.lines[0].get_ydata()[0] == pytest.approx(1000 / 4e6 / 3.0)


def test_the_command_writes_a_picture_for_each_baseline_and_the_roofline(tmp_path, capsys):
    file = saved(tmp_path / "rows.json", row(m=1, inductor=3.0, vllm=None), row(m=2, inductor=3.0, vllm=4.0))
    assert plot.main([str(file), "--out", str(tmp_path / "a"), "--title", "a GPU"]) == 0
    kinds = [f"a-{kind}.{ending}" for kind in ("speedup", "speedup-vllm", "roofline") for ending in ("svg", "png")]
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in kinds]
    assert "a GPU" in (tmp_path / "a-speedup.svg").read_text()
    first = (tmp_path / "a-speedup.svg").read_bytes()
    plot.main([str(file), "--out", str(tmp_path / "a"), "--title", "a GPU"])
    assert (tmp_path / "a-speedup.svg").read_bytes() == first


def test_a_table_alone_has_no_roofline_until_the_bandwidth_is_given(tmp_path):
    assert [path.name for path in plots.draw(*plot.read(TABLE), str(tmp_path / "a"))] == ["a-speedup.svg", "a-speedup.png"]


def test_a_table_is_known_by_its_folder_from_inside_it_too(monkeypatch):
    monkeypatch.chdir(TABLE.parent)
    assert plot.read(Path(TABLE.name)) == plot.read(TABLE)


@pytest.mark.parametrize("rows", [[], [row(inductor=None)]])
def test_nothing_to_draw_is_a_sentence(tmp_path, capsys, monkeypatch, rows):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "rows.json", *({**each, "bytes": None} for each in rows))
    with pytest.raises(SystemExit):
        plot.main(["rows.json"])
    assert "there is nothing to draw: no row of rows.json was measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "{}", '{"limits": {"copy_bandwidth": 1}, "rows": [1]}', '{"limits": {}, "rows": [{}]}', '[{"case": 1}]']
)
def test_other_files_are_a_sentence(tmp_path, capsys, content):
    (tmp_path / "quant").mkdir()
    file = tmp_path / "quant" / "other.json"
    file.write_text(content)
    with pytest.raises(SystemExit):
        plot.main([str(file)])
    assert str(file) in capsys.readouterr().err


def test_without_matplotlib_a_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"matplotlib, which is missing: pip install 'helion-compile\[bench\]'"):
        plots.require()


def test_the_rows_behind_the_figures_can_be_drawn():
    rows, limits = plot.read(DOCS / "kernels-h200.json")
    assert limits is not None and len(rows) == 20
    assert all(row["bytes"] and row["operations"] and row["baselines"]["inductor"] for row in rows)
