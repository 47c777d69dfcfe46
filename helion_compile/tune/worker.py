# SPDX-License-Identifier: Apache-2.0
"""A process that measures or compiles, so that a config which breaks the CUDA context, hangs or kills it costs one result.

The parent sends ``(method, arguments)`` and gets ``("ok", value)``, ``("error", sentence)`` or, when the process can measure
no more, ``("broken", sentence)``; a process that dies sends nothing.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

__all__ = ["Worker", "WorkerDied"]

_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


class WorkerDied(RuntimeError):
    """The process is gone, or was ended because it did not answer; the next request starts another."""


class Worker:
    """A process started at the first request and again after each death.

    Args:
        server: "module:class" of what answers the requests.
        modules: to import before, for the kernels they define.
        environment: variables to set in the process before it makes the server.
        start: "spawn", or "forkserver", which takes milliseconds instead of seconds: torch and the first such worker's modules
            are imported once, in the process that the others are forked from.  Such a worker sees no GPU.
    """

    def __init__(self, server: str, modules: Sequence[str], environment: Mapping[str, str], start: str = "spawn") -> None:
        self.server, self.modules, self.environment = server, tuple(modules), dict(environment)
        self._context: Any = multiprocessing.get_context(start)
        if start == "forkserver":
            self._context.set_forkserver_preload(["torch", *modules])
            self.environment |= _NO_GPU
            # Importing Inductor (torch 2.11) asks CUDA for its GPUs, and no process forked after that may use one.
            with mock.patch.dict(os.environ, _NO_GPU):
                multiprocessing.forkserver.ensure_running()
        self.process: Any = None
        self._lock = threading.Lock()  # a process that is being started cannot be ended yet
        self.deaths = 0

    def request(self, method: str, *arguments: Any, seconds: float = 120.0) -> Any:
        """Call a method of the server.

        Raises:
            WorkerDied: the process died on it, or gave no answer in time and was ended.
            ValueError: the method raised an error after which the process still works.
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
            _end(process)

    def _start(self) -> None:
        self.pipe, theirs = self._context.Pipe()
        arguments = (theirs, self.server, self.modules, self.environment)
        self.process = self._context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def _died(self) -> None:
        self.deaths += 1
        self.stop()


def _end(process: Any) -> None:
    """Politely, so that it gives back what it holds, then at once."""
    process.terminate()
    process.join(1.0)
    process.kill()
    process.join()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _serve(pipe: Any, server: str, modules: Sequence[str], environment: Mapping[str, str]) -> None:
    _obey_parent()
    os.environ.update(environment)
    for module in modules:
        importlib.import_module(module)
    module, _, name = server.partition(":")
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


def _obey_parent() -> None:
    """End this process with the one that wants it, however that ends, so that no GPU stays taken; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole group
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        import ctypes

        # On Linux. A fork server, which is what this process is a child of then, ends with the one that wants both.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():  # it ended before the line above
        os._exit(1)
