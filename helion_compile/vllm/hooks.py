# SPDX-License-Identifier: Apache-2.0
"""What vLLM has to know of us besides the pass: that our node writes to nothing, and when to warm up."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from helion_compile import compat
from helion_compile.graph.hop import helion_kernel
from helion_compile.vllm.log import off

__all__ = ["install"]

_installed: set[str] = set()


def install() -> None:
    """Hook into those modules of vLLM that are imported by now; to be called whenever vLLM may have imported more."""
    _hook(compat.VLLM_CLONE_ELIMINATION, _patch_clone_elimination, "vLLM's clone elimination may fail on fused graphs")
    _hook(compat.VLLM_GPU_WORKER, _patch_worker, "the warm-up is off, first calls of some sizes compile while serving")


def _hook(name: str, change: Callable[[Any], None], otherwise: str) -> None:
    if name in _installed or name not in sys.modules:
        return
    _installed.add(name)
    try:
        change(sys.modules[name])
    except Exception as error:
        off(otherwise, f"{type(error).__name__}: {error}")


def _patch_clone_elimination(module: Any) -> None:
    # It takes every higher-order op for a write, and fails where it finds two writes to one clone.
    original = module.user_writes_to_node

    @functools.wraps(original)
    def user_writes_to_node(user: Any, node: Any) -> bool:
        return user.target is not helion_kernel and original(user, node)

    module.user_writes_to_node = user_writes_to_node


def _patch_worker(module: Any) -> None:
    original = module.Worker.compile_or_warm_up_model

    @functools.wraps(original)
    def compile_or_warm_up_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        from helion_compile.vllm import warming

        warming.warm(self)
        return original(self, *args, **kwargs)

    module.Worker.compile_or_warm_up_model = compile_or_warm_up_model
