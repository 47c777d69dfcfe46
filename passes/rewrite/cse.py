# SPDX-License-Identifier: Apache-2.0
"""CSE within a chain that is kept: copies of one value, as q, k and v each quantise an activation, are computed once."""

from __future__ import annotations

from torch.fx import Node

from helion_compile.passes.ir.values import same_shape
from helion_compile.passes.match.chain import Chain
from helion_compile.passes.rewrite.edits import Edits

__all__ = ["merge_copies"]


def merge_copies(chain: Chain, edits: Edits) -> set[Node]:
    """Let readers of a copy read the first one of its layout; the nodes that are dead then.

    One that is read before the first is computed stays.
    """
    for _, _, copies in chain.outputs():
        kept: list[Node] = []
        for copy in copies:
            first = next((node for node in kept if _have_one_layout(copy, node)), None)
            if first is None:
                kept.append(copy)
            elif all(first < user for user in copy.users):
                edits.replace_uses(copy, first, keep=())
    dead: set[Node] = set()
    for node in sorted(chain.nodes, reverse=True):
        if all(user in dead for user in node.users):
            dead.add(node)
    return dead


def _have_one_layout(one: Node, other: Node) -> bool:
    a, b = one.meta["val"], other.meta["val"]
    return a.dtype == b.dtype and same_shape(a.shape, b.shape) and same_shape(a.stride(), b.stride())
