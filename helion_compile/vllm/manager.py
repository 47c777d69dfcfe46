# SPDX-License-Identifier: Apache-2.0
"""vLLM's pass manager with our pass in it; made by vLLM, which finds it by name (``plugin.py``)."""

from __future__ import annotations

from typing import Any

from helion_compile.compat import resolve_obj_by_qualname
from helion_compile.vllm import hooks
from helion_compile.vllm.fusion_pass import FusionPass
from helion_compile.vllm.log import off
from helion_compile.vllm.options import from_environment
from helion_compile.vllm.plugin import original_manager

__all__ = ["PassManager", "place"]

# Passes of vLLM that ours comes after: they tidy the graph up, or put communication into it that ours cannot replace.
_BEFORE_OURS = frozenset(
    {
        "AddRMSNormFusionPass",
        "AllReduceFusionPass",
        "AsyncTPPass",
        "NoOpEliminationPass",
        "RMSNormReshapeFusionPass",
        "SequenceParallelismPass",
    }
)


class PassManager(resolve_obj_by_qualname(original_manager())):  # type: ignore[misc]
    """The manager of vLLM's platform; ``configure`` puts our pass in front of vLLM's fusions."""

    def __init__(self) -> None:
        super().__init__()
        hooks.install()

    def configure(self, config: Any) -> None:
        super().configure(config)
        try:
            place(self.passes, FusionPass(config=config, **from_environment()))
        except Exception as error:
            off("the fusions are off", f"{type(error).__name__}: {error}")


def place(passes: list[Any], ours: FusionPass) -> None:
    """Insert ``ours`` behind the passes that it needs to come after, and in front of all others."""
    index = 0
    for position, each in enumerate(passes, start=1):
        if type(each).__name__ in _BEFORE_OURS:
            index = position
    passes.insert(index, ours)
