"""How near a candidate came: the steps of a meaning, and which of them a walk has passed."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence

import torch
from torch.fx import Node

from helion_compile.passes.patterns.matcher import ABS, ADD, DIV, MEAN, MUL, RECIPROCAL

__all__ = ["ALONE", "steps_of", "walked"]

aten = torch.ops.aten

ALONE = "nothing else reads its inner values"

# What reports call a meaning -> its steps, in the order in which values flow, each with the operations that can spell it;
# None marks the anchor, at which reading begins.  A meaning without an entry is one step.
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
    """The steps of a meaning, by its name in reports; the last is that it can be taken out of the graph."""
    return (*(step for step, _ in STEPS.get(name, ((name, None),))), ALONE)


def walked(name: str, nodes: Collection[Node], anchor: Node) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The steps of a meaning that ``nodes``, which a walk has stepped over, spell, and those that they do not.

    Each node counts for one step, the nearest to the anchor, where a walk begins.
    """
    steps = STEPS.get(name, ((name, None),))
    middle = next(index for index, (_, targets) in enumerate(steps) if targets is None)
    above = sorted((node for node in nodes if node < anchor), reverse=True)
    below = sorted(node for node in nodes if anchor < node)
    found = {middle, *_found(reversed(range(middle)), steps, above), *_found(range(middle + 1, len(steps)), steps, below)}
    matched = tuple(step for index, (step, _) in enumerate(steps) if index in found)
    return matched, (*(step for index, (step, _) in enumerate(steps) if index not in found), ALONE)


def _found(order: Iterable[int], steps: Sequence[tuple[str, Collection[object] | None]], nodes: list[Node]) -> list[int]:
    found = []
    for index in order:
        node = next((node for node in nodes if node.target in (steps[index][1] or ())), None)
        if node is not None:
            nodes.remove(node)
            found.append(index)
    return found
