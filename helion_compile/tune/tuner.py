# SPDX-License-Identifier: Apache-2.0
"""One run of the tuner: families of cases are searched a few at a time, so that the GPU measures one while the CPU cores
compile for the others."""

from __future__ import annotations

import concurrent.futures
import datetime
import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helion_compile.configs.case import Case
from helion_compile.configs.files import kernel_folder
from helion_compile.configs.gpu import Gpu
from helion_compile.configs.row import Row
from helion_compile.configs.table import ConfigTable
from helion_compile.definitions.spec import KernelSpec
from helion_compile.tune.autotune import autotuned
from helion_compile.tune.baselines import Baselines
from helion_compile.tune.candidates import Moves, Space
from helion_compile.tune.cases import TuneError
from helion_compile.tune.compiling import Target
from helion_compile.tune.family import Effort, Family
from helion_compile.tune.journal import Journal
from helion_compile.tune.pool import COMPILER, CompilePool
from helion_compile.tune.worker import Worker, WorkerDied

__all__ = ["EFFORTS", "Settings", "Tuner", "share"]

EFFORTS = {
    "quick": Effort(1, rounds=1, steps=8),
    "normal": Effort(2, rounds=3, steps=12),
    "full": Effort(3, rounds=10, steps=60, patient=True),
}
ACTIVE = 4  # families in hand: enough that one is compiled whenever the GPU is free
MOST_SEEDS = 8  # from the family before
GPU_MEASURER = "helion_compile.tune.measure:GpuMeasurer"


@dataclass
class Settings:
    """How to run; the fields after ``budget`` are for tests and for running on several GPUs.

    Attributes:
        out: folder of the tables; ConfigTable's own first folder by default.
        journal: folder for what was measured so far.
        budget: seconds, or None for as long as it takes.
        environment: for the measuring processes only, such as which GPU is theirs.
    """

    effort: str = "normal"
    out: Path | None = None
    journal: Path = Path("journal")
    budget: float | None = None
    baselines: int = 2
    processes: int = 0
    modules: tuple[str, ...] = ("helion_compile.kernels",)
    rank: int = 0
    ranks: int = 1
    local_ranks: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    measurer: str = GPU_MEASURER
    compiler: str = COMPILER
    search: Callable[..., Mapping[str, Any]] = autotuned  # Helion's own, to compare with
    start: str = "spawn"  # of the measuring processes
    space: Callable[[KernelSpec, Case], Any] = Space


class Tuner:
    """Tunes ``work`` and writes each finished case to its kernel's table.

    Args:
        report: called with a sentence now and then.
        advance: called with the number of cases, in parts, that were finished since.

    Raises:
        TuneError: no process can measure here.
    """

    def __init__(
        self,
        work: Sequence[tuple[KernelSpec, Case]],
        settings: Settings,
        report: Callable[[str], None] = print,
        advance: Callable[[float], None] = lambda cases: None,
    ) -> None:
        self.settings, self.report, self.advance = settings, report, advance
        self.started = time.monotonic()
        cache = settings.journal / "triton"
        environment = {"TRITON_CACHE_DIR": str(cache), **settings.environment}

        def measuring(**more: str) -> Worker:
            return Worker(settings.measurer, settings.modules, {**environment, **more}, settings.start)

        self._worker = measuring()
        # Inductor would start compile workers of its own for each baseline process.
        self._beside = [measuring(TORCHINDUCTOR_COMPILE_THREADS="1") for _ in range(settings.baselines)]
        try:
            self.described = self._worker.request("gpu", seconds=300.0)
        except (WorkerDied, ValueError) as error:
            self._worker.stop()
            raise TuneError(f"nothing can be measured here: {error}; tune on a machine with the GPU") from None
        major, minor = self.described["capability"]
        self.gpu = Gpu(self.described["name"], (major, minor))
        target = Target(10 * major + minor, self.described["multiprocessors"])
        processes = settings.processes or max(1, (os.cpu_count() or 2) // settings.local_ranks - 1)
        self._pool = CompilePool(processes, settings.modules, target, environment, settings.compiler)
        self._gpu_lock = threading.Lock()
        self._journals: dict[str, Journal] = {}
        self._tables: dict[str, ConfigTable] = {}
        self._moves: dict[str, Moves] = {}
        self._won: dict[str, list[Mapping[str, Any]]] = {}
        self._kernels = {kernel.short_name: kernel for kernel, _ in work}
        self._work = [(kernel, case) for kernel, case in work]
        self.tuned_before = [item for item in self._work if self._is_done(*item)]
        self.failed: dict[tuple[str, Case], str] = {}
        self.skipped: list[tuple[str, Case]] = []

    def run(self) -> list[Row]:
        """Until all is tuned or the time is used up; the rows of this run."""
        todo = share(
            [item for item in self._work if item not in self.tuned_before],
            {name: kernel.configs.bucketed for name, kernel in self._kernels.items()},
            self.settings.rank,
            self.settings.ranks,
        )
        self.advance(len(self.tuned_before))
        cases = [(kernel.short_name, case) for kernel, group in todo for case in group]
        open_baselines = [
            (name, case, self._journal(name))
            for name, case in cases
            if not self._kernels[name].fallbacks and (case, "inductor") not in self._journal(name).baselines
        ]
        # Helion takes a second to read a kernel: one thread does it ahead while this one waits for the GPU.
        reader = concurrent.futures.ThreadPoolExecutor(1)
        self._spaces = [reader.submit(self.settings.space, kernel, group[0]) for kernel, group in todo]
        beside = Baselines(self._beside, self._gpu_lock, open_baselines)
        try:
            self._search(todo)
            while beside.is_alive() and not self._is_late(grace=1.1):
                time.sleep(0.1)
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
            beside.stop()
            self._worker.stop()
            self._pool.stop()
            rows = self._write()
        return rows

    # --- the search -----------------------------------------------------------------------------------------------------

    def _search(self, todo: list[tuple[KernelSpec, list[Case]]]) -> None:
        active: list[Family] = []
        spent: dict[int, float] = {}
        waiting = list(todo)
        while active or waiting:
            # Nothing is measured while Helion reads a kernel, so that is waited for only where there is nothing else to do.
            while waiting and len(active) < ACTIVE and not self._is_late() and (not active or self._spaces[0].done()):
                active.append(self._start(len(todo) - len(waiting), *waiting.pop(0)))
            if not active:
                self.skipped = [(kernel.short_name, case) for kernel, group in waiting for case in group]
                return
            allowed = self._allowed(len(active) + len(waiting))
            late = [self._is_late() or spent.get(id(family), 0.0) > allowed for family in active]
            family, hurry = next((each for each in zip(active, late, strict=True) if each[0].ready(each[1])), (None, False))
            if family is None:
                futures = [future for each in active for future in each.waiting_for()]
                pending = [future for future in futures if not future.done()]
                concurrent.futures.wait(pending, timeout=0.2, return_when=concurrent.futures.FIRST_COMPLETED)
                continue
            before, phases = time.monotonic(), family.phases
            goes_on = family.step(hurry)
            spent[id(family)] = spent.get(id(family), 0.0) + time.monotonic() - before
            if goes_on:
                self.advance((family.phases - phases) * self._share_of_phase(family))
            else:
                active.remove(family)
                self._finished(family)

    def _share_of_phase(self, family: Family) -> float:
        """How many cases, in parts, one phase of a search stands for: the seeds, a round, and two for the end."""
        return len(family.cases) / (EFFORTS[self.settings.effort].rounds + 3)

    def _start(self, number: int, kernel: KernelSpec, cases: list[Case]) -> Family:
        journal = self._journal(kernel.short_name)
        table = self._table(kernel)
        seeds = [kernel.configs.default(cases[0])] if kernel.configs.default else []
        seeds += [kernel.configs.default(cases[-1])] if kernel.configs.default else []
        seeds += self._won.get(kernel.short_name, [])
        seeds += [pick.config for case in cases if (pick := table.pick(case, self.gpu)).row is not None]
        family = Family(
            kernel,
            cases,
            self._spaces.pop(0).result(),
            journal,
            self._moves.setdefault(kernel.short_name, Moves()),
            EFFORTS[self.settings.effort],
            # What was begun first is finished first: the GPU waits for its next round, not for the seeds of others.
            compile=lambda case, config: self._pool.submit(kernel.short_name, case, config, urgency=number),
            measure=self._measure,
            seeds=[seed for seed in seeds if seed and "fallback" not in seed],
        )
        family.start()
        return family

    def _measure(self, method: str, *arguments: Any) -> Any:
        with self._gpu_lock:
            return self._worker.request(method, *arguments)

    def _finished(self, family: Family) -> None:
        name = family.kernel.short_name
        won: list[Mapping[str, Any]] = [winner.config for winner in family.winners.values()]
        self._won[name] = [config for n, config in enumerate(won) if config not in won[:n]][:MOST_SEEDS]
        for case, reason in family.failed.items():
            if case not in family.winners:
                self.failed[name, case] = reason
        self._write()
        self.advance(len(family.cases) - family.phases * self._share_of_phase(family))
        exact = family.cases[0].without(family.kernel.configs.bucketed)
        lost = f", {self._worker.deaths} measuring processes lost so far" if self._worker.deaths else ""
        self.report(f"{name} {exact}: {len(family.winners)} of {len(family.cases)} cases tuned{lost}")

    def _is_late(self, grace: float = 1.0) -> bool:
        budget = self.settings.budget
        return budget is not None and time.monotonic() - self.started > 0.9 * grace * budget

    def _allowed(self, families: int) -> float:
        """Seconds of measuring that one family may take."""
        budget = self.settings.budget
        if budget is None:
            return float("inf")
        return max(0.0, 0.9 * budget - (time.monotonic() - self.started)) / max(families, 1)

    @property
    def rows(self) -> list[tuple[str, Row]]:
        """Kernel and row of each case of ``work`` that is tuned, in this run or before."""
        picks = [(kernel.short_name, self._table(kernel).pick(case, self.gpu)) for kernel, case in self._work]
        return [(name, pick.row) for name, pick in picks if pick.row is not None and pick.origin == "exact"]

    # --- what is kept ---------------------------------------------------------------------------------------------------

    def _is_done(self, kernel: KernelSpec, case: Case) -> bool:
        journal = self._journal(kernel.short_name)
        done = journal.done.get(case)
        enough = done is not None and done.get("effort", 0) >= EFFORTS[self.settings.effort].level
        without = not self.settings.baselines or kernel.fallbacks  # a fallback is the baseline
        return bool(enough and (without or (case, "inductor") in journal.baselines))

    def _journal(self, name: str) -> Journal:
        if name not in self._journals:
            kernel = self._kernels[name]
            versions = " ".join(f"{key}={value}" for key, value in sorted(self.described["versions"].items()))
            digest = hashlib.sha256(f"{self.gpu} {versions} {kernel.config_fingerprint}".encode()).hexdigest()[:8]
            run = f"{kernel_folder(Path(), name)}.{self.gpu.slug}.{digest}"
            self._journals[name] = Journal(self.settings.journal, run, self.settings.rank)
        return self._journals[name]

    def _table(self, kernel: KernelSpec) -> ConfigTable:
        if kernel.short_name not in self._tables:
            out = self.settings.out
            table = kernel.table if out is None else kernel.new_table((out, *kernel.table.folders))
            table.reload()  # another process may have written since it was read
            self._tables[kernel.short_name] = table
        return self._tables[kernel.short_name]

    def _write(self) -> list[Row]:
        """Put every finished case into its table, also those of a run that was interrupted; the rows."""
        rows = []
        for name, kernel in self._kernels.items():
            journal = self._journal(name)
            made = [self._row(kernel, journal, case) for other, case in self._work if other is kernel and case in journal.done]
            if made:
                self._table(kernel).add(made, self.gpu)
            rows += made
        return rows

    def _row(self, kernel: KernelSpec, journal: Journal, case: Case) -> Row:
        done = journal.done[case]
        baselines = {name: us for (other, name), us in journal.baselines.items() if other == case and us is not None}
        made_with = {
            "kernel": kernel.config_fingerprint,
            **self.described["versions"],
            "date": done.get("date") or datetime.date.today().isoformat(),
            "spills": done.get("spills", 0),
        }
        return Row(
            case,
            done["winner"],
            round(done["us"], 3),
            {name: round(us, 3) for name, us in sorted(baselines.items())},
            made_with,
        )


def share(
    work: Sequence[tuple[KernelSpec, Case]], rounded: Mapping[str, Sequence[str]], rank: int, ranks: int
) -> list[tuple[KernelSpec, list[Case]]]:
    """This rank's part of the work, by families; where there are more ranks than families, parts of families."""
    families: dict[tuple[str, Case], tuple[KernelSpec, list[Case]]] = {}
    for kernel, case in work:
        families.setdefault((kernel.short_name, case.without(tuple(rounded[kernel.short_name]))), (kernel, []))[1].append(case)
    parts = -(-ranks // max(len(families), 1))
    units = [(kernel, cases[part::parts]) for kernel, cases in families.values() for part in range(parts)]
    return [unit for unit in units[rank::ranks] if unit[1]]
