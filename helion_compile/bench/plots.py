"""Pictures of what ``bench kernels`` and ``bench chains`` measured: speed-up over the number of tokens, and the roofline.

Needs matplotlib (``pip install helion-compile[plot]``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw"]

Row = Mapping[str, Any]


def draw(rows: Sequence[Row], machine: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``speedup`` and ``roofline``, each as PNG and SVG.

    Args:
        rows: measurements with "kernel", "m", "k", perhaps "n", "us", "baselines" (µs by name), "bytes" and "flops".
        machine: with "gpu", "bytes_per_s" (of a copy) and "flops_per_s" (of a large fp8 product).
        folder: made if it is not there.

    Returns:
        The files.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("--plot draws with matplotlib, which is not installed; pip install helion-compile[plot].") from None
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in (("speedup", _speedup(rows, machine)), ("roofline", _roofline(rows, machine))):
        for suffix in ("png", "svg"):
            files.append(folder / f"{name}.{suffix}")
            # Without a date in it, equal measurements give equal files.
            figure.savefig(files[-1], dpi=110, metadata={"Date": None} if suffix == "svg" else None)
    return files


def _speedup(rows: Sequence[Row], machine: Mapping[str, Any]) -> Any:
    """A panel for each kernel: its time against the best other's, over the number of tokens, a line for each shape."""
    from matplotlib.figure import Figure

    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    columns = min(3, len(kernels))
    lines = -(-len(kernels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True).flat
    for kernel, panel in zip(kernels, panels, strict=False):
        for shape, points in _by_shape(rows, kernel).items():
            tokens = [row["m"] for row in points]
            panel.plot(tokens, [min(row["baselines"].values()) / row["us"] for row in points], marker="o", ms=3, label=shape)
        panel.axhline(1.0, color="0.5", lw=1)
        panel.set(title=kernel, ylim=(0, None))
        panel.set_xscale("log", base=2)
        panel.legend(fontsize=7, frameon=False)
    for panel in panels:  # those left over
        panel.set_visible(False)
    figure.supxlabel("tokens")
    figure.supylabel("times as fast as the best other")
    figure.suptitle(machine["gpu"], fontsize=10)
    return figure


def _by_shape(rows: Sequence[Row], kernel: str) -> dict[str, list[Row]]:
    shapes: dict[str, list[Row]] = {}
    for row in sorted((row for row in rows if row["kernel"] == kernel), key=lambda row: row["m"]):
        shape = f"K={row['k']}" + (f", N={row['n']}" if row.get("n") else "")
        shapes.setdefault(shape, []).append(row)
    return shapes


def _roofline(rows: Sequence[Row], machine: Mapping[str, Any]) -> Any:
    """Achieved operations a second over operations a byte, under what the memory and the tensor cores allow."""
    from matplotlib.figure import Figure

    bandwidth, peak = machine["bytes_per_s"], machine["flops_per_s"]
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    panel = figure.subplots()
    intensities = [row["flops"] / row["bytes"] for row in rows]
    low, high = min(intensities) / 2, max(max(intensities) * 2, 2 * peak / bandwidth)
    ridge = peak / bandwidth
    panel.plot([low, ridge, high], [low * bandwidth / 1e12, peak / 1e12, peak / 1e12], color="0.3", lw=1)
    for kernel in dict.fromkeys(row["kernel"] for row in rows):
        points = [row for row in rows if row["kernel"] == kernel]
        panel.scatter(
            [row["flops"] / row["bytes"] for row in points],
            [row["flops"] / (row["us"] * 1e-6) / 1e12 for row in points],
            s=[8 + 2 * row["m"].bit_length() for row in points],
            label=kernel,
            alpha=0.7,
        )
    panel.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="10¹² operations a second")
    panel.set_title(f"{machine['gpu']}: {bandwidth / 1e12:.2f} TB/s, {peak / 1e12:.0f} TFLOP/s measured", fontsize=10)
    panel.legend(fontsize=7, frameon=False)
    return figure
