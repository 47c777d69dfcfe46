# SPDX-License-Identifier: Apache-2.0
"""Where in the user's program a graph node comes from."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass

import torch.fx

__all__ = ["Location", "shown_path"]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_ACCESS = re.compile(r"\['?(?P<key>[^\]']+)'?\]|\.(?P<name>\w+)")
_NO_MODULE = ("self", "__dict__", "_modules", "_orig_mod")  # parts of the way that name no module
_PACKAGES = re.compile(r"[/\\](?:site|dist)-packages[/\\]")


@dataclass(frozen=True)
class Location:
    """Module path ("model.layers.0.self_attn") and source line of a node; empty strings where tracing kept neither."""

    module: str = ""
    file: str = ""
    line: int = 0

    @classmethod
    def of(cls, node: torch.fx.Node) -> Location:
        stack = node.meta.get("nn_module_stack")
        path = list(stack.values())[-1][0] if stack else ""
        return _locate(path, *_last_frame(node.meta.get("stack_trace") or node.stack_trace or ""))

    def __str__(self) -> str:
        return f"{self.module} ({self.source})" if self.module else self.source

    @property
    def source(self) -> str:
        """ "transformers/models/qwen3/modeling_qwen3.py:244"."""
        return f"{shown_path(self.file)}:{self.line}" if self.file else "unknown source line"


def shown_path(file: str) -> str:
    """``file`` as a reader knows it: from the folder in which packages are installed, or from the working directory."""
    installed = _PACKAGES.split(file)
    if len(installed) > 1:
        return installed[-1]
    here = os.getcwd() + os.sep
    return file.removeprefix(here)


# A model's layers share their source lines, and each node of a line its texts.
@functools.lru_cache(1024)
def _last_frame(stack_trace: str) -> tuple[str, int]:
    frames = _FRAME.findall(stack_trace)
    file, line, _ = frames[-1] if frames else ("", "0", "")
    return file, int(line)


@functools.lru_cache(4096)
def _locate(path: str, file: str, line: int) -> Location:
    # "L['self'].model.layers[0].mlp" or "L['self']._modules['layers']…"
    keys = [key or name for key, name in _ACCESS.findall(path)]
    return Location(".".join(key for key in keys if key not in _NO_MODULE), file, line)
