# SPDX-License-Identifier: Apache-2.0
"""Pictures of rows: how many times faster than a baseline over the number of tokens, and the roofline.

Colours and greys that can be read on white and on black, for pages in both.  Needs matplotlib, which is in the extra
``bench``.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from helion_compile.bench.work import Limits, Work
from helion_compile.cli.options import output_file

__all__ = ["MissingMatplotlib", "draw", "file_prefix", "require", "roofline", "speedup"]

GREY = "#808890"
COLOURS = ("#3b82c4", "#d9822b", "#2f9e77", "#c2508a", "#8a6fd1", "#a58a1f", "#4aa8c0", "#c0564a", "#7a8f3c")
MARKERS = "osD^vP*Xph<>"
NAMES = {
    "inductor": "Inductor",
    "vllm": "vLLM's CUDA operator",
    "cutlass": "CUTLASS",
    "library": "the library's product",
}  # others: by their own


class MissingMatplotlib(SystemExit):
    """Pictures were asked for and matplotlib is not installed."""


def require() -> None:
    """Raise MissingMatplotlib where nothing can be drawn, before anything was measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingMatplotlib("pictures are drawn by matplotlib, which is missing: pip install 'helion-compile[bench]'")


def file_prefix(text: str) -> str:
    """What the names of pictures begin with, in a folder that can be written to."""
    output_file(f"{text}-speedup.svg")
    return text


def draw(rows: Sequence[dict[str, Any]], limits: Limits | None, prefix: str, title: str = "") -> list[Path]:
    """Write PREFIX-speedup (one for each baseline, ``-vllm`` and so on behind the first) and PREFIX-roofline, SVG and PNG."""
    names = list(dict.fromkeys(name for row in rows for name, us in row["baselines"].items() if us))
    figures = {}
    for name in names:
        kind = "speedup" if name == names[0] else "speedup-" + "-".join(name.replace(",", "").split())
        figures[kind] = speedup(rows, name, title)
    if limits is not None and any(row.get("bytes") for row in rows):
        figures["roofline"] = roofline(rows, limits, title)
    written = []
    for kind, figure in figures.items():
        for ending in ("svg", "png"):
            file = Path(f"{prefix}-{kind}.{ending}")
            # No date and no random ids: the same rows are the same file.
            figure.savefig(file, transparent=True, dpi=120, metadata={"Date": None} if ending == "svg" else None)
            written.append(file)
    return written


def speedup(rows: Iterable[dict[str, Any]], baseline: str, title: str = "") -> Any:
    """A panel for each kernel, a line for each width, ratio over tokens; both axes by powers of two."""
    rows = [row for row in rows if row["baselines"].get(baseline)]
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    columns = 1 if len(kernels) == 1 else 2 if len(kernels) <= 4 else 3
    lines = -(-len(kernels) // columns)
    figure, axes = _figure(lines, columns, (3.3 * columns + 1.2, 2.4 * lines + 0.9), sharey=True)
    widths = sorted({_width(row) for row in rows})
    styles = {width: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, width in enumerate(widths)}
    for axis, kernel in zip(axes, kernels, strict=False):
        own = [row for row in rows if row["kernel"] == kernel]
        axis.axhline(1.0, color=GREY, linewidth=1.2)
        for width in sorted({_width(row) for row in own}):
            line = sorted((row["m"], row["baselines"][baseline] / row["us"]) for row in own if _width(row) == width)
            colour, marker = styles[width]
            axis.plot(*zip(*line, strict=True), color=colour, marker=marker, markersize=3, linewidth=1.3)
        axis.set_title(kernel, fontsize=10)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        axis.yaxis.set_minor_formatter(lambda value, _: "")
        _tokens(axis, sorted({row["m"] for row in own}))
    ratios = [row["baselines"][baseline] / row["us"] for row in rows]
    ticks = [tick for tick in (0.25, 0.5, 0.71, 1, 1.41, 2, 2.83, 4, 8, 16) if min(ratios) / 1.3 <= tick <= max(ratios) * 1.2]
    for axis in axes[: len(kernels)]:
        axis.set_yticks(ticks, minor=False)
        axis.set_yticks([], minor=True)
    _end(axes, len(kernels), columns)
    _legend(figure, {_named(width): {"color": colour, "marker": marker} for width, (colour, marker) in styles.items()})
    _entitle(figure, f"Times faster than {NAMES.get(baseline, baseline)}", title)
    return figure


def roofline(rows: Iterable[dict[str, Any]], limits: Limits, title: str = "") -> Any:
    """Left: operations a second over operations a byte, below what a copy and a large GEMM reach; larger marks are more
    tokens.  Right: the share of that limit over the tokens, a line through the widths' mean and a band from least to most.
    """
    rows = [row for row in rows if row.get("bytes")]
    figure, (left, right) = _figure(1, 2, (9.6, 4.2))
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    styles = {kernel: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, kernel in enumerate(kernels)}
    _roofs(left, rows, limits)
    most = max(row["m"] for row in rows)
    for kernel, (colour, marker) in styles.items():
        own = [row for row in rows if row["kernel"] == kernel]
        sizes = [4 + 30 * math.log2(row["m"] + 1) / math.log2(most + 1) for row in own]
        places = [*map(_intensity, own)], [*map(_rate, own)]
        left.scatter(*places, s=sizes, color=colour, marker=marker, alpha=0.6, linewidths=0)
        tokens = sorted({row["m"] for row in own})
        shares = [[_share(row, limits) for row in own if row["m"] == m] for m in tokens]
        right.fill_between(tokens, [*map(min, shares)], [*map(max, shares)], color=colour, alpha=0.15, linewidth=0)
        right.plot(
            tokens, [sum(each) / len(each) for each in shares], color=colour, marker=marker, markersize=3, linewidth=1.3
        )
    right.set_xscale("log", base=2)
    right.set_ylim(0, 1.05)
    right.axhline(1.0, color=GREY, linewidth=1.2)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.set_ylabel("share of the limit", fontsize=9)
    _tokens(right, sorted({row["m"] for row in rows}))
    _end([right], 1, 1)
    _legend(figure, {kernel: {"color": colour, "marker": marker} for kernel, (colour, marker) in styles.items()})
    _entitle(figure, "Roofline", title)
    return figure


def _roofs(axis: Any, rows: list[dict[str, Any]], limits: Limits) -> None:
    """The axes of a roofline and its roofs."""
    low, high = min(map(_intensity, rows)) / 1.5, max(map(_intensity, rows)) * 1.5
    rate = limits.product_rate
    knee = min(high, rate / limits.copy_bandwidth) if rate else high
    axis.plot([low, knee], [low * limits.copy_bandwidth, knee * limits.copy_bandwidth], color=GREY, linewidth=1.4)
    _note(axis, f"copy {limits.copy_bandwidth / 1e12:.2f} TB/s", low, low * limits.copy_bandwidth)
    if rate and knee < high:
        axis.plot([knee, high], [rate, rate], color=GREY, linewidth=1.4)
        _note(axis, f"fp8 product {rate / 1e12:.0f} T/s", knee, rate)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=10)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("operations a byte", fontsize=9)
    axis.set_ylabel("operations a second", fontsize=9)
    axis.grid(True, which="major", color=GREY, alpha=0.25, linewidth=0.6)


def _note(axis: Any, text: str, x: float, y: float) -> None:
    axis.annotate(text, (x, y), xytext=(2, 14), textcoords="offset points", color=GREY, fontsize=8)


def _figure(lines: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, list[Any]]:
    require()
    import matplotlib
    from matplotlib.figure import Figure

    # Text as text: smaller than outlines, and a page's own search finds it.  A fixed salt makes ids that stay.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "helion-compile", "font.family": "sans-serif"})
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, **options).ravel()
    for axis in axes:
        axis.tick_params(colors=GREY, which="both", labelsize=8)
        axis.xaxis.label.set_color(GREY)
        axis.yaxis.label.set_color(GREY)
        axis.title.set_color(GREY)
        for spine in axis.spines.values():
            spine.set_color(GREY)
            spine.set_alpha(0.5)
    return figure, list(axes)


def _tokens(axis: Any, tokens: Sequence[int]) -> None:
    axis.set_xticks([m for m in tokens if math.log2(m) % 2 == 1 or m == 1] if len(tokens) > 8 else tokens)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.grid(True, which="major", color=GREY, alpha=0.25, linewidth=0.6)


def _end(axes: list[Any], used: int, columns: int) -> None:
    """Take away the panels that nothing is in, and say what the lowest ones are over."""
    for axis in axes[used:]:
        axis.remove()
    for axis in axes[max(0, used - columns) : used]:
        axis.set_xlabel("tokens (M)", fontsize=9)


def _legend(figure: Any, styles: Mapping[str, dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], markersize=4, linewidth=1.3, **style) for style in styles.values()]
    figure.legend(marks, list(styles), labelcolor=GREY, frameon=False, fontsize=8, loc="outside right center")


def _entitle(figure: Any, what: str, where: str) -> None:
    figure.suptitle(f"{what}, {where}" if where else what, fontsize=10, color=GREY)


def _width(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(row[name] for name in ("k", "n") if name in row)


def _named(width: tuple[int, ...]) -> str:
    return " ".join(f"{name}={size}" for name, size in zip(("K", "N"), width, strict=False))


def _intensity(row: dict[str, Any]) -> float:
    return row["operations"] / row["bytes"]


def _rate(row: dict[str, Any]) -> float:
    return row["operations"] / (row["us"] * 1e-6)


def _share(row: dict[str, Any], limits: Limits) -> float:
    return limits.least(Work(row["bytes"], row["operations"], row["products"]))[0] / row["us"]
