# SPDX-License-Identifier: Apache-2.0
"""Nodes of a graph that compute one semantic op."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from torch.fx import Node

if TYPE_CHECKING:
    from helion_compile.passes.semantics import SemanticOp

__all__ = ["Match", "find_dead_nodes"]

Op = TypeVar("Op", bound="SemanticOp", covariant=True)


@dataclass(eq=False)
class Match(Generic[Op]):
    """The nodes that compute one semantic op.  Compared by identity.

    ``inputs`` and ``outputs`` carry the names that the op's docstring gives.  An output has one node for each copy of it in
    the graph: three projections that each quantise the same activation make one match with three copies of ``q`` and three
    of ``scale``.
    """

    op: Op
    anchor: Node  # the node at which matching began, of the first copy
    inputs: dict[str, Node]
    outputs: dict[str, tuple[Node, ...]]
    nodes: dict[Node, None]  # interior and outputs, an ordered set
    cheap: set[Node] = field(default_factory=set)  # interior that may have readers outside: casts, squares of an input
    merged: int = 1  # copies in the graph
    views: dict[str, tuple[Node, ...]] = field(default_factory=dict)  # what copies read in the place of an input
    smaller: Match | None = None  # the same match with less taken in: a norm without the residual add in front

    def __repr__(self) -> str:
        return f"Match({self.op}, anchor={self.anchor.name}, merged={self.merged})"

    @property
    def last(self) -> Node:
        """The last output of the first copy: where a report says that the match is."""
        return max(copies[0] for copies in self.outputs.values())

    def interior(self) -> list[Node]:
        """The nodes that are no output."""
        outputs = {node for copies in self.outputs.values() for node in copies}
        return [node for node in self.nodes if node not in outputs]

    def shown_by(self, name: str) -> tuple[Node, ...]:
        """The nodes by which the copies read an input: the input, and views of the same value."""
        return self.views.get(name) or (self.inputs[name],)

    def absorb(self, copy: Match) -> None:
        """Take in an equal match, of another copy in the graph."""
        self.views = {name: tuple(dict.fromkeys((*self.shown_by(name), *copy.shown_by(name)))) for name in self.inputs}
        self.outputs = {name: tuple(dict.fromkeys((*nodes, *copy.outputs[name]))) for name, nodes in self.outputs.items()}
        self.nodes |= copy.nodes
        self.cheap |= copy.cheap
        self.merged += copy.merged


def find_dead_nodes(nodes: dict[Node, None], cheap: set[Node]) -> dict[Node, None]:
    """The nodes that nobody needs once the outputs among them are replaced.

    All but ``cheap`` ones with a reader that stays.
    """
    dead = dict(nodes)
    for node in sorted(nodes, reverse=True):
        if node in cheap and any(user not in dead for user in node.users):
            del dead[node]
    return dead
