# SPDX-License-Identifier: Apache-2.0
"""The README's chart: how many times faster a chain and a served model are, as bars, from files of measured rows.

Two files make it: rows of ``bench chains``, and runs of ``bench vllm`` with and without the plug-in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from helion_compile.bench import plots

__all__ = ["Panel", "draw", "read"]

BASELINE = "inductor, library"  # what torch.compile alone runs: Inductor's kernel, then torch._scaled_mm
THEMES = {"light": ("#24292f", "#8c959f", "#1f6feb"), "dark": ("#e6edf3", "#7d8590", "#58a6ff")}  # text, line, bars


class Panel(NamedTuple):
    """Bars with one baseline: what was run -> how many times faster."""

    title: str
    ratios: Mapping[str, float]


def read(files: Sequence[Path]) -> list[Panel]:
    """A panel for each file.

    Raises:
        ValueError: a file holds neither rows of ``bench chains`` nor two runs of ``bench vllm``, in one sentence.
    """
    panels = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            made = _read_chains(content) if "rows" in content else _read_vllm(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} holds neither rows of bench chains nor runs of bench vllm: {error!r:.100}") from None
        if not made.ratios:
            raise ValueError(f"{file} has no rows that were measured")
        panels.append(made)
    return panels


def _read_chains(content: Mapping[str, Any]) -> Panel:
    """The geometric mean over the widths, for each number of tokens."""
    ratios: dict[int, list[float]] = {}
    for row in content["rows"]:
        ratios.setdefault(row["m"], []).append(row["baselines"][BASELINE] / row["us"])
    named = {f"{m} token{'s' * (m > 1)}": geometric_mean(found) for m, found in sorted(ratios.items())}
    return Panel("norm → fp8 → matmul\nagainst Inductor and torch._scaled_mm", named)


def _read_vllm(content: Mapping[str, Any]) -> Panel:
    """Of a prompt and what follows it: ``batch x prompt + new tokens``."""
    cold = {run["variant"]: run["ms"] for run in content["runs"] if run["start"] == "cold"}
    default, ours = cold["default"], cold["ours"]
    named = {}
    for name in default:
        batch, _, tokens = name.partition("x")
        prefill = tokens.endswith("+1")
        what = "prefill" if prefill else "decode"
        named[f"{what}, {batch} sequence{'s' * (batch != '1')}"] = default[name] / ours[name]
    version = content["machine"]["vllm"].rpartition(".")[0]
    return Panel(f"a served Qwen3-8B\nagainst vLLM {version} alone", named)


def draw(panels: Sequence[Panel], prefix: str, title: str = "") -> list[Path]:
    """Write PREFIX-light.svg and PREFIX-dark.svg, for pages on white and on black."""
    plots.require()
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "helion-compile", "font.family": "sans-serif"})
    written = []
    for theme, (text, grey, colour) in THEMES.items():
        figure = Figure((8.6, 2.5), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            _draw_panel(axis, panel, text, grey, colour)
        figure.suptitle(f"Times faster, {title}" if title else "Times faster", fontsize=11, color=text)
        file = Path(f"{prefix}-{theme}.svg")
        # No date and no random ids: the same rows are the same file.
        figure.savefig(file, transparent=True, metadata={"Date": None})
        written.append(file)
    return written


def _draw_panel(axis: Any, panel: Panel, text: str, grey: str, colour: str) -> None:
    """Bars from 0, so that their lengths compare; the baseline is the line at 1."""
    names, ratios = list(panel.ratios), list(panel.ratios.values())
    axis.barh(range(len(names)), ratios, color=colour, height=0.62)
    axis.axvline(1.0, color=grey, linewidth=1.2)
    for place, ratio in enumerate(ratios):
        axis.annotate(
            f"{ratio:.2f}x", (ratio, place), xytext=(4, 0), textcoords="offset points", va="center", color=text, fontsize=9
        )
    axis.set_yticks(range(len(names)), names, fontsize=9, color=text)
    axis.set_xticks([0, 1], ["0", "1x"], fontsize=8, color=grey)
    axis.set_xlim(0, max(*ratios, 1.0) * 1.2)
    axis.invert_yaxis()
    axis.set_title(panel.title, fontsize=9, color=text)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
