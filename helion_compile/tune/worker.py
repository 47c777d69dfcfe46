"""A process that measures, so that a config which breaks the CUDA context, hangs or kills the process costs one result.

The parent sends ``(method, arguments)`` and gets ``("ok", value)``, ``("error", sentence)`` or, when the process can measure
no more, ``("broken", sentence)``; a process that dies sends nothing.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["Worker", "WorkerDied", "end", "obey_parent"]


class WorkerDied(RuntimeError):
    """The process is gone, or was ended because it did not answer; the next request starts another."""


class Worker:
    """A measuring process, started at the first request and again after each death.

    Args:
        measurer: "module:class" of what answers the requests.
        modules: to import before, for the kernels they define.
        environment: variables to set in the process before it imports anything.
    """

    def __init__(self, measurer: str, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self.measurer, self.modules, self.environment = measurer, tuple(modules), dict(environment)
        self.process: Any = None
        self._lock = threading.Lock()  # a process that is being started cannot be ended yet
        self.deaths = 0

    def request(self, method: str, *arguments: Any, seconds: float = 120.0) -> Any:
        """Call a method of the measurer.

        Raises:
            WorkerDied: the process died on it, or gave no answer in time and was ended.
            ValueError: the method raised an error after which the process still measures.
        """
        with self._lock:
            if self.process is None:
                self._start()
            process, pipe = self.process, self.pipe
        try:
            pipe.send((method, arguments))
            if not pipe.poll(seconds):
                raise WorkerDied(f"no answer in {seconds:.0f} s")
            status, value = pipe.recv()
        except (EOFError, OSError):
            process.join(5)
            self._died()
            raise WorkerDied(f"the process ended with {_ending(process.exitcode)}") from None
        except WorkerDied:
            self._died()
            raise
        if status == "ok":
            return value
        if status == "broken":
            self._died()
            raise WorkerDied(value)
        raise ValueError(value)

    def stop(self) -> None:
        """End the process; a request that another thread is waiting for raises WorkerDied."""
        with self._lock:
            process, self.process = self.process, None
        if process is not None:
            end([process])

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, self.measurer, self.modules, self.environment, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def _died(self) -> None:
        self.deaths += 1
        self.stop()


def end(processes: Iterable[Any]) -> None:
    """End processes that :func:`obey_parent` prepared: politely, so that they give back what they hold, then at once."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + 1.0
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _serve(pipe: Any, measurer: str, modules: Sequence[str], environment: Mapping[str, str], parent: int) -> None:
    obey_parent(parent)
    os.environ.update(environment)
    for module in modules:
        importlib.import_module(module)
    module, _, name = measurer.partition(":")
    target = getattr(importlib.import_module(module), name)()
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = "ok", getattr(target, method)(*arguments)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            answer = "broken" if _context_is_broken() else "error", text
        pipe.send(answer)


def _context_is_broken() -> bool:
    import torch

    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except Exception:
        return True
    return False


def obey_parent(parent: int) -> None:
    """End this process with ``parent``, however that ends, so that a GPU does not stay taken; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole group
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, on Linux
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
