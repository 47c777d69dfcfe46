# SPDX-License-Identifier: Apache-2.0
"""Compilation on all CPU cores; what crashes a compiler, or takes it too long, costs that config and not the run."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

from helion_compile.configs.case import Case
from helion_compile.tune.compiling import Compiled, Target
from helion_compile.tune.worker import Worker, WorkerDied

__all__ = ["COMPILER", "CompilePool"]

COMPILE_SECONDS = 60.0  # of one config; half a second is usual, and ptxas can take hours over one kernel
COMPILER = "helion_compile.tune.compiling:Compiler"

# Urgency, number of the request, its result, and what to compile.
_Task = tuple[float, int, Future[Compiled], tuple[Any, ...]]


class CompilePool:
    """Futures of :class:`Compiled`, which never raise.

    Args:
        modules: to import before, for the kernels they define.
        compiler: "module:class" of what compiles, for tests.
    """

    def __init__(
        self,
        processes: int,
        modules: Sequence[str],
        target: Target,
        environment: Mapping[str, str],
        compiler: str = COMPILER,
    ) -> None:
        self._target = target
        self._queue: queue.PriorityQueue[_Task] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._stopped = threading.Event()
        self._workers = [Worker(compiler, modules, environment, start="forkserver") for _ in range(processes)]
        self._threads = [threading.Thread(target=self._drive, args=(worker,), daemon=True) for worker in self._workers]
        for thread in self._threads:
            thread.start()

    def submit(self, name: str, case: Case, config: Mapping[str, Any], urgency: float = 0.0) -> Future[Compiled]:
        """Of two configs that wait, that of less ``urgency`` is compiled first, or the one that was asked for first."""
        result: Future[Compiled] = Future()
        task = (name, case.to_json(), dict(config))
        self._queue.put((urgency, next(self._numbers), result, task))
        return result

    def stop(self) -> None:
        """End the processes; what was not compiled stays open."""
        self._stopped.set()
        for worker in self._workers:
            worker.stop()
        for _ in self._threads:
            self._queue.put((float("-inf"), next(self._numbers), Future(), ()))
        for thread in self._threads:
            thread.join()

    def _drive(self, worker: Worker) -> None:
        while True:
            _, _, result, task = self._queue.get()
            if self._stopped.is_set():
                break
            try:
                compiled = worker.request("compile", self._target, *task, seconds=COMPILE_SECONDS)
            except (WorkerDied, ValueError, OSError) as error:
                if self._stopped.is_set():
                    break
                compiled = Compiled("", "", error=f"the compiler gave no answer: {error}")
            with contextlib.suppress(InvalidStateError):  # nobody waits for it any more
                result.set_result(compiled)
        worker.stop()
