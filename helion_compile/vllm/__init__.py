# SPDX-License-Identifier: Apache-2.0
"""Our pass inside vLLM's compiler.

Two ways in, and both at once do no harm:

* ``HELION_COMPILE_VLLM=1``, and vLLM loads ``plugin.register`` as one of its general plug-ins: the pass runs in front of
  vLLM's own fusions (``manager.py``).
* the slot that vLLM keeps for a user's pass, which runs after them::

      LLM(model, compilation_config={"inductor_compile_config": {
          "post_grad_custom_post_pass": helion_compile.vllm.FusionPass()}})

vLLM is imported where one of them is taken, never by ``import helion_compile``.
"""

from __future__ import annotations

from typing import Any

__all__ = ["FusionPass"]


def __getattr__(name: str) -> Any:
    if name == "FusionPass":
        from helion_compile.vllm.fusion_pass import FusionPass

        return FusionPass
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
