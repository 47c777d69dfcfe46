# SPDX-License-Identifier: Apache-2.0
"""How near a candidate came: the steps of a semantic op, and which of them were matched."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence

import torch
from torch.fx import Node

from helion_compile.passes.patterns.matcher import ABS, ADD, DIV, MEAN, MUL, RECIPROCAL

__all__ = ["ALONE", "match_progress", "steps_of"]

aten = torch.ops.aten

ALONE = "nothing else reads its inner values"

# A pattern's name -> its steps, in the order in which values flow, each with the operations that can be it; None marks the
# anchor, at which matching begins.  What has no entry is one step: of its candidates there is no progress to tell.
STEPS: dict[str, tuple[tuple[str, Collection[object] | None], ...]] = {
    "norm": (
        ("a mean", {*MEAN, aten.var_mean.correction}),
        ("plus eps", ADD),
        ("its rsqrt", None),
        ("x times that", MUL),
    ),
    "quantize": (
        ("magnitudes", ABS),
        ("the largest", {aten.amax.default, aten.max.default, aten.max.dim, operator.getitem}),
        ("the scale", DIV | MUL),
        ("x by the scale", DIV | MUL | RECIPROCAL),
        ("the cast", None),
    ),
}


def steps_of(name: str) -> tuple[str, ...]:
    """The steps of a pattern; the last is that its match can be taken out of the graph.  None where it is one step."""
    return (*(step for step, _ in STEPS[name]), ALONE) if name in STEPS else ()


def match_progress(name: str, nodes: Collection[Node], anchor: Node) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The steps of a pattern that ``nodes``, which were stepped over, are, and those that they are not.

    Each node counts for one step, the nearest to the anchor.
    """
    if name not in STEPS:
        return (), ()
    steps = STEPS[name]
    middle = next(index for index, (_, targets) in enumerate(steps) if targets is None)
    above = sorted((node for node in nodes if node < anchor), reverse=True)
    below = sorted(node for node in nodes if anchor < node)
    found = {
        middle,
        *_find_steps(reversed(range(middle)), steps, above),
        *_find_steps(range(middle + 1, len(steps)), steps, below),
    }
    matched = tuple(step for index, (step, _) in enumerate(steps) if index in found)
    return matched, (*(step for index, (step, _) in enumerate(steps) if index not in found), ALONE)


def _find_steps(order: Iterable[int], steps: Sequence[tuple[str, Collection[object] | None]], nodes: list[Node]) -> list[int]:
    found = []
    for index in order:
        node = next((node for node in nodes if node.target in (steps[index][1] or ())), None)
        if node is not None:
            nodes.remove(node)
            found.append(index)
    return found
