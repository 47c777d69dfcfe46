# SPDX-License-Identifier: Apache-2.0
"""Figures and pictures on the pages are those of the data that they come from."""

import json
from pathlib import Path

import pytest

from helion_compile.bench import headline, plot
from helion_compile.configs.files import shipped_folder
from helion_compile.configs.row import Row
from helion_compile.fusions.profitability import beaten_by_inductor
from tests.support import ROOT

MEASUREMENTS = ROOT / "docs" / "measurements"
FILES = MEASUREMENTS / "chains-h200.json", MEASUREMENTS / "vllm-h200.json"
TITLE = "NVIDIA H200, fp8 per token"


def test_what_stays_with_inductor_is_as_the_tables_have_it():
    rows = [Row.from_json(row) for file in shipped_folder().glob("*/*.json") for row in json.loads(file.read_text())]
    rows = [row for row in rows if "library" not in row.baselines]  # a product is compared with the library's
    left = [row for row in rows if beaten_by_inductor(row)]
    most = max(row.case["num_tokens"] for row in left)
    ranges = [row for row in left if "static" not in row.case.fields]  # graphs for a range leave these to Inductor
    slower = max(row.us / row.baselines["inductor"] - 1 for row in ranges)
    longer = max(row.us - row.baselines["inductor"] for row in ranges)
    for file, count in (
        ("docs/limits.md", f"({len(left)} of {len(rows)} cases, up to {most} tokens)"),
        ("docs/design.md", f"{len(left)} of the {len(rows)} shipped cases, of at most {most} tokens"),
    ):
        text = (ROOT / file).read_text()
        assert count in text and f"cases up to {slower * 100:.0f} % ({longer:.2f} µs) slower" in text


def test_the_headline_is_drawn_from_what_was_measured(tmp_path, capsys):
    command = ["--headline", *map(str, FILES), "--out", str(tmp_path / "headline"), "--title", TITLE]
    assert plot.main(command) == 0
    drawn = [Path(line) for line in capsys.readouterr().out.split()]
    assert [file.name for file in drawn] == ["headline-light.svg", "headline-dark.svg"]
    readme = (ROOT / "README.md").read_text()
    for panel in headline.read(FILES):
        for name, ratio in panel.ratios.items():
            for file in drawn:
                committed = (MEASUREMENTS / file.name).read_text()
                for text in (file.read_text(), committed):
                    assert f">{ratio:.2f}x<" in text and f">{name}<" in text
            assert f"{ratio:.2f} for {name.removeprefix('decode, ').removesuffix(' tokens').removesuffix(' sequences')}" in (
                " ".join(readme.split()).replace("prefill 1.07", "1.07 for prefill, 32")
            )


@pytest.mark.parametrize("content", ["{}", '{"rows": [{"m": 1}]}', '{"runs": []}', "[]", "{"])
def test_another_file_is_a_sentence(content, tmp_path, capsys):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(SystemExit):
        plot.main(["--headline", str(tmp_path / "rows.json")])
    assert "rows.json holds neither rows of bench chains nor runs of bench vllm" in capsys.readouterr().err
