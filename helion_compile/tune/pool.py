"""Compilation on all CPU cores; a compiler that crashes costs the configs it had in hand, not the run."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from helion_compile.case import Case
from helion_compile.tune.compiling import Compiled, Target, compile_config
from helion_compile.tune.worker import end, obey_parent

__all__ = ["CompilePool"]

COMPILE_SECONDS = 60  # of one config; half a second is usual


class CompilePool:
    """Futures of :class:`Compiled`, which never raise.

    Args:
        compile: another function in the place of ``compile_config``, for tests.
    """

    def __init__(
        self,
        processes: int,
        modules: Sequence[str],
        target: Target,
        environment: Mapping[str, str],
        compile: Callable[..., Compiled] = compile_config,
    ) -> None:
        self._processes = processes
        self._target = target
        self._arguments = (tuple(modules), dict(environment), os.getpid())
        self._compile = compile
        self._running: dict[Future[Compiled], tuple[Future[Compiled], float]] = {}
        self._stopped = False
        self._executor = self._new()

    def submit(self, name: str, case: Case, config: Mapping[str, Any]) -> Future[Compiled]:
        result: Future[Compiled] = Future()
        self._try(result, (name, case.to_json(), dict(config)), again=True)
        return result

    def expire(self) -> None:
        """Give up on what compiles for too long; ptxas can take hours over one kernel.  The core stays lost to it."""
        now = time.monotonic()
        for result, (inner, since) in list(self._running.items()):
            if result.done() or inner.done():
                self._running.pop(result, None)
            elif not inner.running():
                self._running[result] = inner, now
            elif now - since > COMPILE_SECONDS:
                self._running.pop(result, None)
                with contextlib.suppress(InvalidStateError):  # it came at this very moment
                    result.set_result(Compiled("", "", error=f"it took more than {COMPILE_SECONDS} s to compile"))

    def stop(self) -> None:
        """End the processes; what was not compiled stays open."""
        self._stopped = True
        executor = self._executor
        end((executor._processes or {}).values())
        executor.shutdown(wait=True, cancel_futures=True)

    def _new(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._processes, context, initializer=_start, initargs=self._arguments)

    def _try(self, result: Future[Compiled], task: tuple[Any, ...], again: bool) -> None:
        try:
            inner = self._executor.submit(self._compile, self._target, *task)
        except BrokenProcessPool:
            self._executor = self._new()
            inner = self._executor.submit(self._compile, self._target, *task)

        self._running[result] = inner, time.monotonic()

        def pass_on(done: Future[Compiled]) -> None:
            if result.done() or done.cancelled():
                return
            error = done.exception()
            if isinstance(error, BrokenProcessPool) and again:
                if not self._stopped:
                    self._try(result, task, again=False)
            elif error is not None:
                result.set_result(Compiled("", "", error=f"the compiler process died: {type(error).__name__}"))
            else:
                result.set_result(done.result())

        inner.add_done_callback(pass_on)


def _start(modules: Sequence[str], environment: Mapping[str, str], parent: int) -> None:
    import torch

    obey_parent(parent)
    os.environ.update(environment)
    torch.set_num_threads(1)
    for module in modules:
        importlib.import_module(module)
