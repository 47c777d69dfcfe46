"""Rotary embeddings in vLLM's CUDA library, which are known and left alone; its native code is read by ``rope``.

::

    _C.rotary_embedding(positions, query!, key!, head_size, cos_sin_cache, is_neox, …)
    _C.fused_qk_norm_rope(qkv!, num_heads_q, …, q_weight, k_weight, cos_sin_cache, is_neox, position_ids, …)
"""

from __future__ import annotations

from torch.fx import Node

from helion_compile.passes.patterns.custom_ops.vllm_schemas import VllmWalk

__all__ = ["ANCHORS", "NAME", "match_at"]

NAME = "rope"
ANCHORS = frozenset({"_C.rotary_embedding.default", "_C.fused_qk_norm_rope.default"})


def match_at(anchor: Node) -> None:
    """Say why such an operator is not read."""
    matcher = VllmWalk(anchor)
    matcher.fail(
        anchor,
        f"{matcher.name} turns queries and keys in one call, where they lie, and is one kernel as it is; vLLM's native code, "
        "without custom operators, can be read",
    )
