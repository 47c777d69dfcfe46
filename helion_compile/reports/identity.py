# SPDX-License-Identifier: Apache-2.0
"""Which report this is: model, device, versions, date, command."""

from __future__ import annotations

import datetime
import importlib.metadata
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from helion_compile.compat import tree_leaves
from helion_compile.configs.gpu import Gpu
from helion_compile.reports.model import Identity

__all__ = ["identify"]

_PACKAGES = ("helion-compile", "helion", "triton", "transformers", "torchao")


def identify(model: Any, values: Iterable[Any] = (), gpu: Gpu | None = None) -> Identity:
    """The identity of a report that is made now.

    Args:
        values: arguments of the model, among which its device is looked for.
        gpu: the GPU that choices are made for, if another one than torch's was asked for.
    """
    tensors = [each for each in tree_leaves(values) if isinstance(each, torch.Tensor)]
    if isinstance(model, torch.nn.Module):
        tensors += [*model.parameters(), *model.buffers()][:1]
    devices = dict.fromkeys(str(tensor.device) for tensor in tensors)
    if gpu is None and any(tensor.is_cuda for tensor in tensors):
        gpu = Gpu.current()
    now = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    return Identity(_name(model), ", ".join(devices), gpu.name if gpu else "", _versions(), now, _command())


def _name(model: Any) -> str:
    if not isinstance(model, torch.nn.Module):
        return str(getattr(model, "__name__", type(model).__name__))
    name = type(model).__name__
    checkpoint = getattr(getattr(model, "config", None), "_name_or_path", "")
    return f"{name} ({Path(checkpoint).name})" if isinstance(checkpoint, str) and checkpoint else name


def _versions() -> dict[str, str]:
    versions = {"torch": str(torch.__version__)}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _command() -> str:
    program = Path(sys.argv[0]) if sys.argv and sys.argv[0] not in ("", "-c") else None
    if program is None:
        return ""
    name = program.parent.name.replace("_", "-") if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])
