# SPDX-License-Identifier: Apache-2.0
"""Rows of measurements: a time beside those of others and beside what the GPU allows; printed, summed up and kept as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from helion_compile.bench.timing import device_us, machine
from helion_compile.bench.work import Limits, Work
from helion_compile.tune.measure import EIGHT_BITS, in_order

__all__ = ["Baseline", "Rows", "distance", "measure", "steps_apart", "summary"]

BANDS = (("up to 64", 1, 64), ("65 to 2047", 65, 2047), ("from 2048", 2048, math.inf))  # tokens


@dataclass(frozen=True)
class Baseline:
    """What ours is measured against.

    Attributes:
        name: "inductor", "library", "vllm", "cutlass".
        run: its call; the first result is compared with ours.
        prepare: makes the call's arguments of ours, outside of what is timed.
        check: takes our first result and its own, gives numbers that say how far they are apart and, where that is more
            than rounding explains, a sentence.
        expected: gives the result to compare with; by default ``run`` does.
    """

    name: str
    run: Callable[..., Any]
    prepare: Callable[..., tuple[Any, ...]] = lambda *args: args
    check: Callable[[torch.Tensor, torch.Tensor], tuple[dict[str, float], str | None]] = lambda ours, theirs: ({}, None)
    expected: Callable[..., Any] | None = None


def measure(
    fields: dict[str, Any],
    ours: Callable[..., Any],
    sets: Sequence[tuple[Any, ...]],
    baselines: Iterable[Baseline],
    work: Work,
    limits: Limits,
    *,
    chained: bool = False,
) -> dict[str, Any]:
    """One row.

    A baseline that fails has no time, and its error is among the row's ``notes``.  Results that are too far apart are a
    sentence in ``wrong``.

    Args:
        fields: what the row is of: "kernel", "m", "k", "n", "config".
        sets: arguments of ``ours``, enough that none is in the L2 when its turn comes again.
        chained: see :func:`device_us`.
    """
    least, limit = limits.least(work)
    us = device_us(ours, sets, chained=chained)
    row: dict[str, Any] = {
        **fields,
        "us": us,
        "baselines": {},
        "bytes": work.bytes,
        "operations": work.operations,
        "products": work.products,
        "limit_us": least,
        "limit": limit,
        "share": least / us,
        "apart": {},
        "notes": {},
        "wrong": [],
    }
    result = _first(ours(*sets[0]))
    for baseline in baselines:
        try:
            numbers, wrong = baseline.check(result, _first((baseline.expected or baseline.run)(*baseline.prepare(*sets[0]))))
            row["apart"][baseline.name] = numbers
            if wrong:
                row["wrong"].append(f"{wrong} from {baseline.name}'s result")
            theirs = [baseline.prepare(*each) for each in sets]
            row["baselines"][baseline.name] = device_us(baseline.run, theirs, chained=chained)
        except Exception as error:  # an operator that this build of a library lacks, or a shape that it does not take
            row["baselines"][baseline.name] = None
            row["notes"][baseline.name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return row


def _first(results: Any) -> torch.Tensor:
    return results[0] if isinstance(results, (tuple, list)) else results


def steps_apart(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[dict[str, float], str | None]:
    """How many representable values apart, and the share that differs; more than one step is too many.

    Values of 16 bits near 0, where a difference of two products is left, are counted in steps of values of 2^-7.  A NaN is
    infinitely far from a number.
    """
    if ours.dtype in EIGHT_BITS:
        steps = (in_order(ours) - in_order(theirs)).abs().float()
    else:
        size = torch.maximum(ours.float().abs(), theirs.float().abs()).clamp_min(2.0**-7)
        steps = (ours.float() - theirs.float()).abs() / torch.exp2(size.log2().floor() - 7)
    nan, other = ours.float().isnan(), theirs.float().isnan()
    steps = torch.where(nan & other, 0.0, torch.where(nan | other, math.inf, steps))
    most = steps.max().item()
    return {"steps": most, "differ": (steps > 0).float().mean().item()}, f"{most:g} steps" if most > 1 else None


def distance(limit: float) -> Callable[[torch.Tensor, torch.Tensor], tuple[dict[str, float], str | None]]:
    """A check of ‖ours - theirs‖ / ‖theirs‖."""

    def check(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[dict[str, float], str | None]:
        apart = ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()
        return {"distance": apart}, None if apart <= limit else f"{apart:.1e}, more than {limit}"

    return check


@dataclass(frozen=True)
class Figure:
    """Of the rows of one kernel beside one baseline: how many times faster ours is.

    Attributes:
        bands: geometric means for up to 64, up to 2047 and more tokens; None where there is no such row.
        worst: the smallest ratio, and ``worst_at`` its row.
        losses: rows in which the baseline is faster; ``clear`` those by more than 2 %.
        share: the least share of the limit from 2048 tokens on.
    """

    kernel: str
    baseline: str
    rows: int
    mean: float
    bands: tuple[float | None, ...]
    worst: float
    worst_at: dict[str, Any]
    losses: int
    clear: int
    share: float | None


def summary(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    """A figure for each kernel and baseline, in the order of the rows."""
    pairs = dict.fromkeys((row["kernel"], name) for row in rows for name in row["baselines"])
    figures = []
    for kernel, name in pairs:
        own = [row for row in rows if row["kernel"] == kernel and row["baselines"].get(name)]
        if not own:
            continue
        ratios = [row["baselines"][name] / row["us"] for row in own]
        worst = min(range(len(own)), key=ratios.__getitem__)
        bands = []
        for _, low, high in BANDS:
            inside = [ratio for row, ratio in zip(own, ratios, strict=True) if low <= row["m"] <= high]
            bands.append(_mean(inside) if inside else None)
        shares = [row["share"] for row in own if row["m"] >= BANDS[-1][1] and row.get("share") is not None]
        losses, clear = (sum(ratio < limit for ratio in ratios) for limit in (1.0, 1 / 1.02))
        figures.append(
            Figure(
                kernel,
                name,
                len(own),
                _mean(ratios),
                tuple(bands),
                ratios[worst],
                own[worst],
                losses,
                clear,
                min(shares, default=None),
            )
        )
    return figures


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


class Rows:
    """The rows of one run: each is printed and written to the file as it comes, for a machine may be taken away."""

    def __init__(self, limits: Limits, file: Path | None = None, console: Console | None = None) -> None:
        self.limits = limits
        self.rows: list[dict[str, Any]] = []
        self._file = file
        self._console = console or Console(soft_wrap=True)
        self._machine = machine()
        rate = f", fp8 products {limits.product_rate / 1e12:.0f} T/s" if limits.product_rate else ""
        self._console.print(f"{self._machine}, copy {limits.copy_bandwidth / 1e12:.2f} TB/s{rate}")

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._console.print(_text(row), highlight=False)
        if self._file is not None:
            command = " ".join(["python -m helion_compile", *sys.argv[1:]])
            made = {"machine": self._machine, "command": command, "limits": asdict(self.limits), "rows": self.rows}
            self._file.write_text(json.dumps(made, indent=1))

    def end(self) -> int:
        """Print what they come to; the exit code, 1 where a result was wrong."""
        table = Table("kernel", "against", "geomean", *(title for title, _, _ in BANDS), "worst", "losses", "least share")
        for figure in summary(self.rows):
            bands = ("" if mean is None else f"{mean:.2f}x" for mean in figure.bands)
            losses = f"{figure.losses} of {figure.rows}" + (f", {figure.clear} by more than 2 %" if figure.losses else "")
            worst = f"{figure.worst:.2f}x at {_sizes(figure.worst_at)}"
            share = "" if figure.share is None else f"{figure.share:.0%}"
            table.add_row(figure.kernel, figure.baseline, f"{figure.mean:.2f}x", *bands, worst, losses, share)
        self._console.print(table)
        wrong = [f"{row['kernel']} at {_sizes(row)}: {sentence}" for row in self.rows for sentence in row["wrong"]]
        for sentence in wrong:
            self._console.print(f"wrong: {sentence}", style="bold red")
        return 1 if wrong else 0


def _sizes(row: dict[str, Any]) -> str:
    return " ".join(f"{name.upper()}={row[name]}" for name in ("k", "n", "m") if name in row)


def _text(row: dict[str, Any]) -> str:
    others = [
        f"{name} {us:.2f} ({us / row['us']:.2f}x)" if us else f"{name}: {row['notes'].get(name, 'not measured')}"
        for name, us in row["baselines"].items()
    ]
    apart = "".join(f", {name} {value:.1e}" for numbers in row["apart"].values() for name, value in numbers.items() if value)
    config = " ".join(f"{name}={value}" for name, value in (row.get("config") or {}).items())
    return (
        f"{row['kernel']:28} {_sizes(row):24} {row['us']:8.2f} us, {', '.join(others)}; "
        f"{row['share']:.0%} of what {row['limit']} allows{apart}; {config}"
    )
