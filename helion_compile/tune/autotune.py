# SPDX-License-Identifier: Apache-2.0
"""Helion's own autotuner on one case, in a process of its own: what the tuner's winners are compared with.

A process, because the autotuner forks and spawns others, which a daemon may not; because each of those imports the main module
again, which has to be one that then does nothing; and because a config that breaks the CUDA context breaks the whole search.

Interfaces: ``helion.kernel(autotune_…)`` and ``BoundKernel.autotune`` (Helion 1.4.0).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helion_compile.configs.case import Case
from helion_compile.definitions import registry

__all__ = ["autotuned"]

START_AND_END_SECONDS = 60.0  # imports before the search, and its last generation, which Helion does not cut short
# A config of many rows on few warps can compile for minutes, and Helion waits for a whole generation: with its limit of 60 s a
# generation can last longer than the budget. (One search of 50 s ended without having measured a config, H200.)
COMPILE_SECONDS = 10


def autotuned(
    name: str,
    case: Case,
    seconds: float,
    modules: Sequence[str],
    environment: Mapping[str, str],
    command: Sequence[str] = (sys.executable, "-m", "helion_compile.tune.autotune"),
) -> dict[str, Any]:
    """The config that ``autotune_effort="full"`` finds within ``seconds``.

    Raises:
        ValueError: it found none, with the reason as a sentence.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "config.json"
        asked = {"kernel": name, "case": case.to_json(), "seconds": seconds, "modules": list(modules), "answer": str(answer)}
        process = subprocess.Popen(
            [*command, json.dumps(asked)],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            said = process.communicate(timeout=seconds + START_AND_END_SECONDS)[1]
        except subprocess.TimeoutExpired:
            raise ValueError(f"Helion's autotuner had not ended {START_AND_END_SECONDS:.0f} s after its budget") from None
        finally:
            _end(process)
        try:
            return dict(json.loads(answer.read_bytes()))
        except (OSError, ValueError):
            last = " ".join(said.split())[-300:]
            raise ValueError(f"Helion's autotuner ended with exit code {process.returncode}: {last}") from None


def _end(process: subprocess.Popen[str]) -> None:
    """With all that it started: the search's own processes hold the GPU too."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _search(asked: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    for module in asked["modules"]:
        importlib.import_module(module)
    kernel = registry.get_kernel(asked["kernel"])
    args = kernel.tuning.make_inputs(Case.from_json(asked["case"]), torch.device("cuda"))
    searched = kernel.new_helion_kernel(
        autotune_effort="full",
        autotune_budget_seconds=int(asked["seconds"]),
        autotune_compile_timeout=COMPILE_SECONDS,
        autotune_ignore_errors=True,
        autotune_progress_bar=False,
        # It compares fp8 bit by bit, and another order of summation moves bits. The result is checked by whoever asked.
        autotune_accuracy_check=False,
    )
    return dict(searched.bind(args).autotune(args).config)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    Path(asked["answer"]).write_text(json.dumps(_search(asked)))
