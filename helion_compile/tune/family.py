"""The search over the cases that share their exact facts, and with them their compiled code: one row of token counts.

Seeds first; then, round by round, from the best config of each case the steps that promise most, and the best configs of
the neighbouring cases; then the fastest few once more, carefully, and the fastest of these that is right wins.
"""

from __future__ import annotations

import concurrent.futures
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helion_compile.case import Case
from helion_compile.kernel import HelionKernel
from helion_compile.tune.candidates import Moves
from helion_compile.tune.compiling import Compiled, representative
from helion_compile.tune.journal import Journal, config_text
from helion_compile.tune.worker import WorkerDied

__all__ = ["Effort", "Family", "Winner"]

FINALISTS = 5
PASSES = 4  # a kernel of 2 µs takes up to a tenth more or less from one capture to the next
HOPELESS = 1.5  # times the best so far: dropped after one replay


@dataclass(frozen=True)
class Effort:
    """How long to search: rounds of steps, steps a case and round, and whether steps that never helped are tried too."""

    level: int
    rounds: int
    steps: int
    patient: bool = False


@dataclass(frozen=True)
class Winner:
    config: dict[str, Any]
    us: float
    compiled: Compiled


@dataclass
class Family:
    """Cases of one kernel that differ in rounded facts only.

    Args:
        compile: takes a case and a config, gives a future of :class:`Compiled`.
        measure: takes a method of the measurer and its arguments; raises as :class:`Worker.request` does.
        seeds: configs to begin with, the likeliest first.
    """

    kernel: HelionKernel
    cases: Sequence[Case]
    space: Any
    journal: Journal
    moves: Moves
    effort: Effort
    compile: Callable[[Case, Mapping[str, Any]], Any]
    measure: Callable[..., Any]
    seeds: Iterable[Mapping[str, Any]] = ()
    round: int = 0
    finishing: bool = False
    times: dict[Case, dict[str, float]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    futures: dict[tuple[Case, str], Any] = field(default_factory=dict)
    wanted: dict[Case, list[str]] = field(default_factory=dict)
    came_by: dict[tuple[Case, str], tuple[str, str]] = field(default_factory=dict)
    tried: set[tuple[Case, str]] = field(default_factory=set)
    deadly: dict[str, str] = field(default_factory=dict)  # configs that cost a process are not tried on other cases
    winners: dict[Case, Winner] = field(default_factory=dict)
    failed: dict[Case, str] = field(default_factory=dict)

    def start(self) -> None:
        """Ask for the seeds, or the configs that the kernel names for each case, to be compiled."""
        seeds = [] if self.kernel.candidates else self.space.seeds(self.seeds)
        seeds += [{"alternative": name} for name in self.kernel.alternatives]
        for case in self.cases:
            self.times[case] = {}
            known = [
                entry["config"]
                for (other, _), entry in self.journal.times.items()
                if other == case and entry.get("us") is not None
            ]
            named = filter(None, map(self.space.whole, self.kernel.candidates(case))) if self.kernel.candidates else ()
            self._want(case, [*seeds, *named, *known])

    def ready(self) -> bool:
        """Whether all that was asked for is compiled."""
        return all(self._future(case, text).done() for case, texts in self.wanted.items() for text in texts)

    def waiting_for(self) -> list[Any]:
        return [self._future(case, text) for case, texts in self.wanted.items() for text in texts]

    def step(self, hurry: bool) -> bool:
        """Measure what is compiled and ask for more; False when every case has its winner, or none can have one.

        Args:
            hurry: search no further, finish with what is known.
        """
        if self.finishing:
            self._finish()
            return False
        for case in self.cases:
            self._measure(case)
        self.wanted = {}
        before = {case: min(times.values(), default=None) for case, times in self.times.items()}
        if not hurry and self.round < self.effort.rounds and not self.kernel.candidates:
            self._next_round()
            self.round += 1
        if not any(self.wanted.values()):
            self.finishing = True
            for case in self.cases:
                best = sorted(self.times[case], key=self.times[case].__getitem__)[:FINALISTS]
                # The alternatives are what the others have to beat, so they are timed as carefully.
                others = [text for text in self.times[case] if "alternative" in self.configs[text] and text not in best]
                self.wanted[case] = [*best, *others]
                if before[case] is None:
                    self.failed.setdefault(case, "no config compiled and ran")
        return True

    # --- asking ---------------------------------------------------------------------------------------------------------

    def _want(self, case: Case, configs: Iterable[Mapping[str, Any]], steps: Iterable[tuple[str, str]] = ()) -> None:
        texts = self.wanted.setdefault(case, [])
        for config in configs:
            text = config_text(config)
            self.configs.setdefault(text, dict(config))
            if (case, text) in self.tried:
                continue
            self.tried.add((case, text))
            entry = self.journal.times.get((case, text))
            if entry is None:
                texts.append(text)
                self._future(case, text)
            elif entry["us"] is not None:
                self.times[case][text] = entry["us"]

    def _future(self, case: Case, text: str) -> Any:
        key = representative(case, self.kernel.rounded), text
        if key not in self.futures:
            alternative = self.configs[text].get("alternative")
            self.futures[key] = _done(alternative) if alternative else self.compile(key[0], self.configs[text])
        return self.futures[key]

    def _next_round(self) -> None:
        for position, case in enumerate(self.cases):
            times = self.times[case]
            if not times:
                continue
            best = min(times, key=times.__getitem__)
            if "alternative" in self.configs[best]:
                continue
            steps = [
                (name, config)
                for name, config in self.space.steps(self.configs[best])
                if (case, config_text(config)) not in self.tried
            ]
            chosen = self.moves.order(steps, self.effort.steps, self.effort.patient)
            for name, config in chosen:
                self.came_by[case, config_text(config)] = name, best
            neighbours = [other for other in self.cases[max(0, position - 2) : position + 3] if self.times[other]]
            theirs = [min(self.times[other], key=self.times[other].__getitem__) for other in neighbours]
            self._want(case, [config for _, config in chosen] + [self.configs[text] for text in theirs])

    # --- measuring ------------------------------------------------------------------------------------------------------

    def _measure(self, case: Case) -> None:
        times = self.times[case]
        codes = {self._code(case, text): text for text in times if (case, text) in self.tried and self._code(case, text)}
        for text in self.wanted.get(case, []):
            compiled = self._future(case, text).result()
            step, origin = self.came_by.get((case, text), (None, None))
            if text in self.deadly:
                self.journal.time(case, self.configs[text], None, self.deadly[text])
                continue
            if compiled.error:
                self.journal.time(case, self.configs[text], None, compiled.error)
                if step:
                    self.moves.failed(step)
                continue
            twin = codes.setdefault(compiled.source, text) if compiled.source else text
            if twin != text:
                if step and twin == origin:
                    self.moves.same_code(step)
                continue
            limit = HOPELESS * min(times.values(), default=float("inf"))
            us = self._time(case, text, compiled, False, limit)
            if us is None:
                continue
            if step:
                self.moves.note(step, 1 - us / times[origin])
            times[text] = us
            self.journal.time(case, self.configs[text], us)

    def _code(self, case: Case, text: str) -> str:
        future = self.futures.get((representative(case, self.kernel.rounded), text))
        return future.result().source if future is not None and future.done() else text

    def _time(self, case: Case, text: str, compiled: Compiled, careful: bool, limit: float) -> float | None:
        try:
            self.measure("open", self.kernel.name, case)
        except (ValueError, RuntimeError) as error:  # no memory for the inputs, say: not the config's fault
            self.failed[case] = f"its inputs could not be made: {error}"
            return None
        try:
            return self.measure("time", compiled.source, compiled.entry, careful, limit)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, WorkerDied):
                self.deadly[text] = str(error)
            self.journal.time(case, self.configs[text], None, str(error))
            return None

    def _finish(self) -> None:
        for case in self.cases:
            measured: dict[str, list[float]] = {}
            for _ in range(PASSES):
                for text in self.wanted.get(case, []):
                    compiled = self._future(case, text).result()
                    if compiled.error:
                        continue
                    us = self._time(case, text, compiled, True, float("inf"))
                    if us is not None:
                        measured.setdefault(text, []).append(us)
            for text in sorted(measured, key=lambda text: statistics.median(measured[text])):
                compiled = self._future(case, text).result()
                try:
                    self.measure("open", self.kernel.name, case)
                    wrong = self.measure("check", compiled.source, compiled.entry)
                except (ValueError, RuntimeError) as error:
                    wrong = str(error)
                if wrong:
                    self.journal.time(case, self.configs[text], None, f"wrong result: {wrong}")
                    self.failed[case] = wrong
                    continue
                for name, alternative in self._alternatives(measured):
                    self.journal.baseline(case, name, alternative)
                us = statistics.median(measured[text])
                config = self.configs[text]
                small = config if "alternative" in config else self.space.small(config)
                self.winners[case] = Winner(small, round(us, 3), compiled)
                self.journal.finish(case, self.winners[case].config, us, self.effort.level, spills=compiled.spills)
                self.failed.pop(case, None)
                break

    def _alternatives(self, measured: Mapping[str, Sequence[float]]) -> Iterable[tuple[str, float]]:
        """Name and median µs of each alternative, and as "kernel" that of the best config of the kernel itself."""
        medians = {text: statistics.median(times) for text, times in measured.items()}
        names = {text: self.configs[text].get("alternative", "kernel") for text in medians}
        if set(names.values()) != {"kernel"}:
            for name in set(names.values()):
                yield name, min(us for text, us in medians.items() if names[text] == name)


def _done(alternative: str) -> concurrent.futures.Future[Compiled]:
    future: concurrent.futures.Future[Compiled] = concurrent.futures.Future()
    future.set_result(Compiled.alternative(alternative))
    return future
