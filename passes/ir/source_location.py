# SPDX-License-Identifier: Apache-2.0
"""Where in the user's program a graph node comes from."""

from __future__ import annotations

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
        frames = _FRAME.findall(node.meta.get("stack_trace") or node.stack_trace or "")
        file, line, _ = frames[-1] if frames else ("", "0", "")
        return cls(_module_path(node), file, int(line))

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


def _module_path(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    path = list(stack.values())[-1][0]  # "L['self'].model.layers[0].mlp" or "L['self']._modules['layers']…"
    keys = [key or name for key, name in _ACCESS.findall(path)]
    return ".".join(key for key in keys if key not in _NO_MODULE)
