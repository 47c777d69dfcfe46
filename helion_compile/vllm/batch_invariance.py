# SPDX-License-Identifier: Apache-2.0
"""vLLM's promise that a token's bits do not depend on which others share its batch: ``VLLM_BATCH_INVARIANT=1``.

Configs are picked by the number of tokens, and a config says in which order a kernel sums.  A fusion with a sum in it would
give a token other bits in another batch.  Largest magnitudes are the same in any order, and so is what has no neighbour.
"""

from __future__ import annotations

from collections.abc import Iterable

from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.semantics import Activation, ComplexRope, Concat, Modulate, Quantize, Rope
from helion_compile.vllm.log import off

__all__ = ["drop_sums", "is_asked_for"]

_WITHOUT_SUM = (Activation, ComplexRope, Concat, Modulate, Quantize, Rope)


def is_asked_for() -> bool:
    """Whether this process runs with ``VLLM_BATCH_INVARIANT=1``; vLLM's own reading of it."""
    from helion_compile.compat import vllm_envs

    return bool(getattr(vllm_envs, "VLLM_BATCH_INVARIANT", False))


def drop_sums(fusions: Iterable[Fusion]) -> list[Fusion]:
    """The fusions whose results are the same for every config; the log tells of the others."""
    given = list(fusions)
    kept = [fusion for fusion in given if all(issubclass(op, _WITHOUT_SUM) for op in fusion.chain)]
    if left := [fusion.name for fusion in given if fusion not in kept]:
        off(
            f"{', '.join(left)} left to vLLM",
            "VLLM_BATCH_INVARIANT=1 wants the same bits for every number of tokens, and their configs sum in several orders",
        )
    return kept
