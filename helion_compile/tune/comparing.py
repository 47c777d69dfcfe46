# SPDX-License-Identifier: Apache-2.0
"""How far the tuner's winners are from those of a full Helion autotune, on a sample of the cases."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helion_compile.configs.case import Case
from helion_compile.configs.row import Row
from helion_compile.tune.cases import TuneError
from helion_compile.tune.compiling import Compiled, Target
from helion_compile.tune.family import PASSES
from helion_compile.tune.pool import CompilePool
from helion_compile.tune.tuner import Settings
from helion_compile.tune.worker import Worker, WorkerDied

__all__ = ["Comparison", "compare", "on_this_gpu", "sample", "summary"]

WITHIN = 1.03  # times what Helion's autotuner found


@dataclass(frozen=True)
class Comparison:
    """One case: µs a call of both winners, measured in turns.

    Attributes:
        reason: why there are no times, or what is wrong with the result of Helion's config.
    """

    kernel: str
    case: dict[str, Any]
    ours: dict[str, Any]
    theirs: dict[str, Any] | None = None
    ours_us: float | None = None
    theirs_us: float | None = None
    reason: str | None = None

    @property
    def ratio(self) -> float | None:
        """Above 1: Helion's is the faster one. None where one of the two has no time, or a wrong result."""
        return self.ours_us / self.theirs_us if self.ours_us and self.theirs_us and not self.reason else None

    def __str__(self) -> str:
        times = (
            f"{self.ours_us:.2f} µs, Helion's {self.theirs_us:.2f} µs" if self.ours_us and self.theirs_us else "not compared"
        )
        return f"{self.kernel} ({Case(**self.case)}): {times}{f'; {self.reason}' if self.reason else ''}"


def sample(rows: Sequence[tuple[str, Row]], count: int) -> list[tuple[str, Row]]:
    """``count`` of the rows, evenly spread over them in their order; fallbacks are nothing that Helion searches for."""
    fit = [(name, row) for name, row in rows if "fallback" not in row.config]
    count = min(count, len(fit))
    return [fit[(2 * index + 1) * len(fit) // (2 * count)] for index in range(count)]


def compare(
    rows: Sequence[tuple[str, Row]],
    worker: Worker,
    pool: CompilePool,
    search: Callable[[str, Case], Mapping[str, Any]],
    report: Callable[[str], None],
    file: Path | None = None,
) -> list[Comparison]:
    """Search for each row's case and time both configs; ``file`` gets all comparisons so far after each one."""
    done: list[Comparison] = []
    for name, row in rows:
        found = _compare(name, row, worker, pool, search)
        done.append(found)
        report(str(found))
        if file is not None:
            try:
                file.write_text(json.dumps([{**asdict(each), "ratio": each.ratio} for each in done], indent=1) + "\n")
            except OSError as error:
                report(f"{file} cannot be written: {error.strerror}")
    return done


def summary(done: Sequence[Comparison]) -> str:
    ratios = [each.ratio for each in done if each.ratio is not None]
    if not ratios:
        return f"none of {len(done)} cases could be compared with Helion's autotuner"
    mean = statistics.geometric_mean(ratios)
    near = sum(ratio <= WITHIN for ratio in ratios)
    return (
        f"{len(ratios)} of {len(done)} cases compared with Helion's full autotune: {mean:.3f} times its time in the geometric "
        f"mean, {max(ratios):.3f} at worst; {near} within {WITHIN - 1:.0%}"
    )


def _compare(name: str, row: Row, worker: Worker, pool: CompilePool, search: Callable[..., Mapping[str, Any]]) -> Comparison:
    known = functools.partial(Comparison, name, row.case.to_json(), dict(row.config))
    try:
        theirs = dict(search(name, row.case))
    except ValueError as error:
        return known(reason=str(error))
    known = functools.partial(known, theirs)
    both = [pool.submit(name, row.case, config).result() for config in (row.config, theirs)]
    if errors := [compiled.error for compiled in both if compiled.error]:
        return known(reason=f"a config does not compile here: {errors[0]}")
    try:
        us, wrong = _timed(name, row.case, both, worker)
    except (WorkerDied, ValueError) as error:
        return known(reason=f"a config could not be timed: {error}")
    return known(*us, reason=f"the result of Helion's config is wrong: {wrong}" if wrong else None)


def _timed(name: str, case: Case, both: Sequence[Compiled], worker: Worker) -> tuple[list[float], str | None]:
    worker.request("open", name, case)
    times: list[list[float]] = [[], []]
    for _ in range(PASSES):
        for compiled, mine in zip(both, times, strict=True):
            mine.append(worker.request("time", compiled.source, compiled.entry, True, float("inf")))
    return [statistics.median(mine) for mine in times], worker.request("check", both[1].source, both[1].entry)


def on_this_gpu(
    rows: Sequence[tuple[str, Row]], settings: Settings, seconds: float, report: Callable[[str], None], file: Path | None
) -> list[Comparison]:
    """:func:`compare` with the processes that ``settings`` (of the tuner) describe.

    Args:
        seconds: that each search may take.

    Raises:
        TuneError: no process can measure here.
    """
    environment = {"TRITON_CACHE_DIR": str(settings.journal / "triton"), **settings.environment}
    worker = Worker(settings.measurer, settings.modules, environment, settings.start)
    try:
        described = worker.request("gpu", seconds=300.0)
    except (WorkerDied, ValueError) as error:
        worker.stop()
        raise TuneError(f"nothing can be compared here: {error}; what was tuned is in the tables") from None
    major, minor = described["capability"]
    target = Target(10 * major + minor, described["multiprocessors"])
    pool = CompilePool(2, settings.modules, target, environment, settings.compiler)

    def search(name: str, case: Case) -> Mapping[str, Any]:
        worker.request("close")  # its inputs take memory that the search may want
        return settings.search(name, case, seconds, settings.modules, settings.environment)

    try:
        return compare(rows, worker, pool, search, report, file)
    finally:
        worker.stop()
        pool.stop()
