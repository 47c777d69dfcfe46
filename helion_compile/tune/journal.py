# SPDX-License-Identifier: Apache-2.0
"""Everything measured so far, a line a fact, so that a run that was interrupted anywhere continues where it was."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helion_compile.configs.case import Case
from helion_compile.configs.row import current_config, is_duration
from helion_compile.tune.cases import TuneError

__all__ = ["Journal", "config_text"]


def config_text(config: Any) -> str:
    """One text for equal configs."""
    return json.dumps(dict(config), sort_keys=True, separators=(",", ":"))


class Journal:
    """Lines of JSON in ``<folder>/<run>.<rank>.jsonl``; those of all ranks are read, one's own is appended to.

    A line reaches the operating system in one write before the next thing is measured, so that even ``kill -9`` loses no
    more than what was being measured.  A line cut short, by a full disk say, is passed over.

    Attributes:
        has_run: whether any config of the kernel itself ever had a time; if not, what failed may have failed for other reasons
            than its config.

    Args:
        run: what the measurements depend on: kernel and its version, GPU, versions of the compilers.

    Raises:
        TuneError: it cannot be written, now or, by the methods, later.
    """

    def __init__(self, folder: Path, run: str, rank: int = 0) -> None:
        self.times: dict[tuple[Case, str], dict[str, Any]] = {}
        self.baselines: dict[tuple[Case, str], float] = {}
        self.done: dict[Case, dict[str, Any]] = {}
        self.has_run = False
        self._lock = threading.Lock()
        self.path = folder / f"{run}.{rank}.jsonl"
        with self._raise_tune_errors():
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob(f"{run}.*.jsonl")):
                for line in path.read_bytes().split(b"\n"):
                    self._take(line)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(self._file, b"\n")  # ends a line that was cut short

    def time(self, case: Case, config: Any, us: float | None, error: str | None = None) -> None:
        """A config's time for a case, or why it has none."""
        self._put({"case": case.to_json(), "config": dict(config), "us": us, "error": error})

    def baseline(self, case: Case, name: str, us: float | None) -> None:
        self._put({"case": case.to_json(), "baseline": name, "us": us})

    def finish(self, case: Case, config: Any, us: float, effort: int, spills: int = 0) -> None:
        """The case is tuned, with this winner."""
        entry = {"case": case.to_json(), "winner": dict(config), "us": us, "effort": effort, "spills": spills}
        # Of the measurement: its row is written anew whenever the command runs again.
        self._put({**entry, "date": datetime.date.today().isoformat()})

    def close(self) -> None:
        os.close(self._file)

    def _put(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry).encode()
        with self._lock:
            self._take(line)
            with self._raise_tune_errors():
                if os.write(self._file, line + b"\n") <= len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def _raise_tune_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TuneError(
                f"what is measured cannot be kept in {self.path}: {error.strerror}; make room, or name another folder with "
                "--journal"
            ) from None

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            case = Case.from_json(entry["case"])
            if entry["us"] is not None and not is_duration(entry["us"]):
                return
            if "baseline" in entry:
                self.baselines[case, entry["baseline"]] = entry["us"]
            elif "winner" in entry:
                # The files of several ranks are read in no order of time: a longer search counts more than a shorter one.
                entry["winner"] = current_config(entry["winner"])
                if entry.get("effort", 0) >= self.done.get(case, {}).get("effort", 0):
                    self.done[case] = entry
            else:
                entry["config"] = current_config(entry["config"])
                self.times[case, config_text(entry["config"])] = entry
                self.has_run |= entry["us"] is not None and "fallback" not in entry["config"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
