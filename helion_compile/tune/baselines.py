# SPDX-License-Identifier: Apache-2.0
"""Times of what a kernel competes with, taken beside the search: compiled in processes of their own, timed in its pauses."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import Any

from helion_compile.configs.case import Case
from helion_compile.tune.cases import TuneError
from helion_compile.tune.journal import Journal
from helion_compile.tune.worker import Worker, WorkerDied

__all__ = ["Baselines"]


class Baselines:
    """Threads that each drive one process; what they measure goes to the journal.

    Args:
        gpu: held by whoever times, so that nobody else's kernels are in the measurement.
    """

    def __init__(self, workers: Iterable[Worker], gpu: Any, work: Iterable[tuple[str, Case, Journal]]) -> None:
        self._gpu = gpu
        self._queue: queue.SimpleQueue[tuple[str, Case, Journal]] = queue.SimpleQueue()
        for item in work:
            self._queue.put(item)
        self._workers = list(workers)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._drive, args=(worker,), daemon=True) for worker in self._workers]
        for thread in self._threads:
            thread.start()

    def is_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """End the processes; what they had not measured stays open."""
        self._ended.set()
        for worker in self._workers:
            worker.stop()

    def _drive(self, worker: Worker) -> None:
        while not self._ended.is_set():
            try:
                name, case, journal = self._queue.get_nowait()
            except queue.Empty:
                break
            us = None
            try:
                with self._gpu:
                    worker.request("open", name, case)
                worker.request("prepare_baseline", seconds=300.0)
                with self._gpu:
                    us = worker.request("baseline")
                    worker.request("close")
            except (WorkerDied, ValueError, OSError):
                if self._ended.is_set():
                    return
            try:
                journal.baseline(case, "inductor", us)
            except TuneError:  # the search tells it, at its next measurement
                break
        worker.stop()
