# SPDX-License-Identifier: Apache-2.0
"""What ``check`` found: one step for each thing that was looked at."""

from __future__ import annotations

import enum
import importlib.util
import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from helion_compile.passes.failure_log import first_line

__all__ = ["CheckResult", "CheckStep", "Outcome", "Skipped", "describe_failure", "run_step"]


def _find_folders(library: str) -> list[str]:
    spec = importlib.util.find_spec(library)
    return list(spec.submodule_search_locations or ()) if spec else []


_HERE = Path(__file__).parent
_PACKAGES = (str(_HERE), str(_HERE.parent / "definitions"), *_find_folders("torch"), *_find_folders("helion"))
_NOT_THE_AUTHORS = tuple(f"{folder}{os.sep}" for folder in _PACKAGES)


class Outcome(enum.Enum):
    """How a step ended."""

    PASSED = "ok"
    SKIPPED = "not checked"
    FAILED = "MISTAKE"


@dataclass(frozen=True)
class CheckStep:
    """One thing that was looked at.

    Attributes:
        name: such as "body".
        outcome: how it ended.
        found: how it was looked at and what was seen; of a step that was skipped, why.
        mistakes: sentences, each with what was asked, what was found and what to do.
    """

    name: str
    outcome: Outcome
    found: str = ""
    mistakes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckResult:
    """What :func:`helion_compile.check` looked at, and what it found.

    Attributes:
        kernel: the kernel's key.
        args: the arguments in a few words each.
        steps: what was looked at, in order.
    """

    kernel: str
    args: str
    steps: tuple[CheckStep, ...]

    @property
    def mistakes(self) -> tuple[str, ...]:
        """The sentences of all steps."""
        return tuple(mistake for step in self.steps for mistake in step.mistakes)

    def __str__(self) -> str:
        count = len(self.mistakes)
        verdict = "no mistakes" if not count else "1 mistake" if count == 1 else f"{count} mistakes"
        lines = [f"{self.kernel} checked with {self.args}: {verdict}"]
        for step in self.steps:
            lines.append(f"  {step.name:<15}  {step.outcome.value}{': ' if step.found else ''}{step.found}")
            lines += [f"      {mistake}" for mistake in step.mistakes]
        return "\n".join(lines)


class Skipped(Exception):
    """A step cannot be taken here; the text says why."""


def run_step(name: str, look: Callable[[list[str]], Iterator[str]]) -> CheckStep:
    """The step of ``look``, which adds what it sees to a list of notes and yields a sentence for each mistake."""
    notes: list[str] = []
    mistakes: list[str] = []
    outcome = Outcome.PASSED
    try:
        mistakes.extend(look(notes))
    except Skipped as reason:
        outcome = Outcome.SKIPPED
        notes = [str(reason)]
    except Exception as error:  # of the author's functions, whatever it is
        mistakes.append(f"It fails {describe_failure(error)}. Mend it, or have check_supported refuse such arguments.")
    return CheckStep(name, Outcome.FAILED if mistakes else outcome, "; ".join(notes), tuple(mistakes))


def describe_failure(error: Exception) -> str:
    """The error's type, its place in the author's code, and the first line of its text."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_NOT_THE_AUTHORS)]
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"with {type(error).__name__}{place}: {first_line(error).rstrip('.') or 'no text'}"
