# SPDX-License-Identifier: Apache-2.0
"""The search over the cases that share their exact key fields, and with them their compiled code: one row of token counts.

Seeds first; then, round by round, from the best config of each case the steps that promise most, and the best configs of
the neighbouring cases; then the fastest few once more, carefully, and the fastest of these that is right wins.  Where the
kernel names the configs of a case, one case tries each, and the others that name it too follow where it was fast there.
"""

from __future__ import annotations

import concurrent.futures
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helion_compile.configs.case import Case
from helion_compile.definitions.spec import KernelSpec
from helion_compile.tune.candidates import Moves
from helion_compile.tune.compiling import Compiled, representative
from helion_compile.tune.journal import Journal, config_text
from helion_compile.tune.worker import WorkerDied

__all__ = ["Effort", "Family", "Winner"]

FINALISTS = 5
PASSES = 4  # a kernel of 2 µs takes up to a tenth more or less from one capture to the next
HOPELESS = 1.5  # times the best so far: dropped after one replay
FOLLOWED = 1.3  # times the best of one case: a config that its kernel names is tried on the other cases too


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
    """Cases of one kernel that differ in bucketed key fields only.

    Args:
        compile: takes a case and a config, gives a future of :class:`Compiled`.
        measure: takes a method of the measurer and its arguments; raises as :class:`Worker.request` does.
        seeds: configs to begin with, the likeliest first.
    """

    kernel: KernelSpec
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
    hurried: bool = False  # something was left out for lack of time
    phases: int = 0  # that are over: seeds and each round
    times: dict[Case, dict[str, float]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    futures: dict[tuple[Case, str], Any] = field(default_factory=dict)
    named: dict[Case, dict[str, dict[str, Any]]] = field(default_factory=dict)  # by the kernel itself
    wanted: dict[Case, list[str]] = field(default_factory=dict)
    came_by: dict[tuple[Case, str], tuple[str, str]] = field(default_factory=dict)
    tried: set[tuple[Case, str]] = field(default_factory=set)
    deadly: dict[str, str] = field(default_factory=dict)  # configs that cost a process are not tried on other cases
    winners: dict[Case, Winner] = field(default_factory=dict)
    failed: dict[Case, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)  # of all configs that did not compile or run

    def start(self) -> None:
        """Ask for the seeds, or the configs that the kernel names, to be compiled."""
        seeds = [] if self.kernel.tuning.candidates else self.space.seeds(self.seeds)
        seeds += [{"fallback": name} for name in self.kernel.fallbacks]
        self.named = {case: self._named(case) for case in self.cases} if self.kernel.tuning.candidates else {}
        for case in self.cases:
            self.times[case] = {}
            known = [
                entry["config"]
                for (other, _), entry in self.journal.times.items()
                if other == case and entry.get("us") is not None
            ]
            first = [config for text, config in self.named.get(case, {}).items() if self._first_to_try(text) == case]
            self._want(case, [*seeds, *first, *known])

    def ready(self, hurry: bool = False) -> bool:
        """Whether :meth:`step` has something to do before more is compiled."""
        wanted = [(case, text) for case, texts in self.wanted.items() for text in texts]
        done = [self._future(case, text).done() for case, text in wanted]
        if self.finishing or not wanted:
            return all(done)
        return any(done) or (hurry and any(self.times[case] for case, _ in wanted))

    def waiting_for(self) -> list[Any]:
        return [self._future(case, text) for case, texts in self.wanted.items() for text in texts]

    def step(self, hurry: bool) -> bool:
        """Measure what is compiled for one case, or ask for more; False when each has its winner, or none can have one.

        Args:
            hurry: search no further, finish with what is known.
        """
        if self.finishing:
            self._finish()
            return False
        case = max(self.cases, key=lambda case: len(self._compiled(case)))
        if compiled := self._compiled(case):
            self.wanted[case] = [text for text in self.wanted[case] if text not in compiled]
            self._measure(case, compiled)
            return True
        if hurry:
            self.hurried |= self.round < self.effort.rounds or any(self.wanted.values())
            self.wanted = {case: texts for case, texts in self.wanted.items() if not self.times[case]}
        if any(self.wanted.values()):
            return True
        self.phases += 1
        if hurry:
            self._borrow()
        elif self.round < self.effort.rounds:
            self._follow() if self.kernel.tuning.candidates else self._next_round()
            self.round += 1
        if not any(self.wanted.values()):
            self._ask_for_finalists()
        return True

    def _ask_for_finalists(self) -> None:
        self.finishing = True
        lost = self._lost()
        for case in self.cases:
            best = sorted(self.times[case], key=self.times[case].__getitem__)[:FINALISTS]
            # The fallbacks are what the others have to beat, so they are timed as carefully.
            others = [text for text in self.times[case] if "fallback" in self.configs[text] and text not in best]
            self.wanted[case] = [*best, *others]
            if lost and (not self.kernel.tuning.candidates or self.named[case]):
                # Otherwise the fallbacks would win wherever something is wrong with the machine.
                self.wanted[case] = []
                self.failed.setdefault(case, lost)
            elif not self.times[case]:
                self.failed.setdefault(case, "no config compiled and ran")

    def _best(self, case: Case) -> str | None:
        """The fastest config of the kernel itself so far."""
        own = [text for text in self.times[case] if "fallback" not in self.configs[text]]
        return min(own, key=self.times[case].__getitem__, default=None)

    def _lost(self) -> str | None:
        """Why no config of the kernel itself compiled and ran, where some were tried."""
        if not self.errors or any(self._best(case) for case in self.cases):
            return None
        reason, count = Counter(self.errors).most_common(1)[0]
        return f"none of {len(self.errors)} configs compiled and ran, {count} of them because of {reason}"

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
            if entry is None or (entry["us"] is None and not self.journal.has_run):
                texts.append(text)
                self._future(case, text)
            elif entry["us"] is not None:
                self.times[case][text] = entry["us"]

    def _future(self, case: Case, text: str) -> Any:
        key = representative(case, self.kernel.configs.bucketed), text
        if key not in self.futures:
            fallback = self.configs[text].get("fallback")
            self.futures[key] = _done(fallback) if fallback else self.compile(key[0], self.configs[text])
        return self.futures[key]

    def _compiled(self, case: Case) -> list[str]:
        return [text for text in self.wanted.get(case, []) if self._future(case, text).done()]

    def _named(self, case: Case) -> dict[str, dict[str, Any]]:
        """The configs that the kernel names for a case, as Helion completes them, by their texts."""
        candidates = self.kernel.tuning.candidates
        whole = filter(None, map(self.space.whole, candidates(case) if candidates else ()))
        return {config_text(config): config for config in whole}

    def _first_to_try(self, text: str) -> Case:
        """The middle one of the cases that a config is named for."""
        cases = [case for case in self.cases if text in self.named[case]]
        return cases[len(cases) // 2]

    def _follow(self) -> None:
        for case in self.cases:
            good = []
            for text, config in self.named[case].items():
                times = self.times[self._first_to_try(text)]
                if times.get(text, float("inf")) <= FOLLOWED * min(times.values(), default=float("inf")):
                    good.append(config)
            self._want(case, good)

    def _borrow(self) -> None:
        """For a case without a config of the kernel itself that of its nearest neighbour: nothing wins unopposed."""
        best = {index: text for index, case in enumerate(self.cases) if (text := self._best(case))}
        for index, case in enumerate(self.cases):
            if best and index not in best and self.named.get(case):
                nearest = min(best, key=lambda other: abs(other - index))
                self._want(case, [self.configs[best[nearest]]])

    def _next_round(self) -> None:
        for position, case in enumerate(self.cases):
            times = self.times[case]
            if not times:
                continue
            best = min(times, key=times.__getitem__)
            if "fallback" in self.configs[best]:
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

    def _measure(self, case: Case, texts: Iterable[str]) -> None:
        times = self.times[case]
        codes = {self._code(case, text): text for text in times if (case, text) in self.tried and self._code(case, text)}
        for text in texts:
            compiled = self._future(case, text).result()
            step, origin = self.came_by.get((case, text), (None, None))
            if text in self.deadly:
                self._fails(case, text, self.deadly[text])
                continue
            if compiled.error:
                self._fails(case, text, compiled.error)
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
            if step and origin is not None:
                self.moves.note(step, 1 - us / times[origin])
            times[text] = us
            self.journal.time(case, self.configs[text], us)

    def _code(self, case: Case, text: str) -> str:
        future = self.futures.get((representative(case, self.kernel.configs.bucketed), text))
        return future.result().source if future is not None and future.done() else text

    def _time(self, case: Case, text: str, compiled: Compiled, careful: bool, limit: float) -> float | None:
        try:
            self.measure("open", self.kernel.short_name, case)
        except (ValueError, RuntimeError) as error:  # no memory for the inputs, say: not the config's fault
            self.failed[case] = f"its inputs could not be made: {error}"
            return None
        try:
            return self.measure("time", compiled.source, compiled.entry, careful, limit)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, WorkerDied):
                self.deadly[text] = str(error)
            self._fails(case, text, str(error))
            return None

    def _fails(self, case: Case, text: str, error: str) -> None:
        self.errors.append(error)
        self.journal.time(case, self.configs[text], None, error)

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
                    self.measure("open", self.kernel.short_name, case)
                    wrong = self.measure("check", compiled.source, compiled.entry)
                except (ValueError, RuntimeError) as error:
                    wrong = str(error)
                if wrong:
                    self.journal.time(case, self.configs[text], None, f"wrong result: {wrong}")
                    self.failed[case] = wrong
                    continue
                for name, fallback in self._fallbacks(measured):
                    self.journal.baseline(case, name, fallback)
                us = statistics.median(measured[text])
                config = self.configs[text]
                small = config if "fallback" in config else self.space.small(config)
                self.winners[case] = Winner(small, round(us, 3), compiled)
                # With time left out it counts as no effort, so that the next run goes on from here.
                effort = 0 if self.hurried else self.effort.level
                self.journal.finish(case, self.winners[case].config, us, effort, spills=compiled.spills)
                self.failed.pop(case, None)
                break

    def _fallbacks(self, measured: Mapping[str, Sequence[float]]) -> Iterable[tuple[str, float]]:
        """Name and median µs of each fallback, and as "kernel" that of the best config of the kernel itself."""
        medians = {text: statistics.median(times) for text, times in measured.items()}
        names = {text: self.configs[text].get("fallback", "kernel") for text in medians}
        if set(names.values()) != {"kernel"}:
            for name in set(names.values()):
                yield name, min(us for text, us in medians.items() if names[text] == name)


def _done(fallback: str) -> concurrent.futures.Future[Compiled]:
    future: concurrent.futures.Future[Compiled] = concurrent.futures.Future()
    future.set_result(Compiled.fallback(fallback))
    return future
