# SPDX-License-Identifier: Apache-2.0
"""The ``vllm.general_plugins`` entry point: with ``HELION_COMPILE_VLLM=1`` the pass joins vLLM's own.

vLLM asks its platform for the class of its pass manager by name; ours is vLLM's with one pass more (``manager.py``).  What
a compiled graph is kept under in vLLM's cache is a hash of its config, which knows nothing of plug-ins: ours is added to it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from typing import Any

from helion_compile.vllm.batch_invariance import is_asked_for
from helion_compile.vllm.identity import identity
from helion_compile.vllm.log import off
from helion_compile.vllm.options import from_environment, share_environment, wanted

__all__ = ["original_manager", "register"]

_MANAGER = "helion_compile.vllm.manager.PassManager"
_originals: dict[str, str] = {}


def register() -> None:
    """Called by vLLM in each of its processes, at times more than once; without the switch it does nothing."""
    if not wanted():
        return
    try:
        share_environment()
        _identity()  # what fails in it fails here, and not where vLLM asks for a hash
        _add_to_hash()
        _replace_manager()
    except Exception as error:
        off("the plug-in is off", f"{type(error).__name__}: {error}")


def original_manager() -> str:
    """The name of the class that vLLM's platform gave before."""
    return _originals["manager"]


def _replace_manager() -> None:
    from helion_compile.compat import current_platform

    platform = type(current_platform)
    original = platform.get_pass_manager_cls
    if getattr(original, "knows_helion_compile", False):
        return
    _originals["manager"] = original()

    def get_pass_manager_cls(cls: type) -> str:
        return _find_manager()

    get_pass_manager_cls.knows_helion_compile = True  # type: ignore[attr-defined]
    platform.get_pass_manager_cls = classmethod(get_pass_manager_cls)


def _find_manager() -> str:
    """The name of our class, or vLLM's where ours cannot be made of it; asked for when vLLM is about to compile."""
    module, _, name = _MANAGER.rpartition(".")
    try:
        getattr(importlib.import_module(module), name)
    except Exception as error:
        off("the plug-in is off", f"{type(error).__name__}: {error}")
        return original_manager()
    return _MANAGER


def _add_to_hash() -> None:
    from helion_compile.compat import VllmConfig

    compute = VllmConfig.compute_hash
    if getattr(compute, "knows_helion_compile", False):
        return

    @functools.wraps(compute)
    def compute_hash(self: Any, *args: Any, **kwargs: Any) -> str:
        theirs = compute(self, *args, **kwargs)
        return hashlib.sha256(f"{theirs} {_identity()}".encode()).hexdigest()[: len(theirs)]

    compute_hash.knows_helion_compile = True  # type: ignore[attr-defined]
    VllmConfig.compute_hash = compute_hash


@functools.cache
def _identity() -> str:
    return identity(from_environment() | {"batch invariant": is_asked_for()})
