"""A stretch of a graph whose meaning has been read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from torch.fx import Node

if TYPE_CHECKING:
    from helion_compile.passes.semantics import SemanticOp

__all__ = ["Match", "dying"]

Op = TypeVar("Op", bound="SemanticOp", covariant=True)


@dataclass(eq=False)
class Match(Generic[Op]):
    """The nodes that spell one meaning.  Compared by identity.

    ``inputs`` and ``outputs`` carry the names that the meaning's docstring gives.  An output has one node for each copy
    of it in the graph: three projections that each quantise the same activation make one region with three copies of
    ``q`` and three of ``scale``.
    """

    op: Op
    anchor: Node  # the node at which reading began, of the first copy
    inputs: dict[str, Node]
    outputs: dict[str, tuple[Node, ...]]
    nodes: dict[Node, None]  # interior and outputs, an ordered set
    cheap: set[Node] = field(default_factory=set)  # interior that may have readers outside: casts, squares of an input
    merged: int = 1  # spelled copies
    narrower: Match | None = None  # the same stretch with less of it taken: a norm without the residual add in front

    def __repr__(self) -> str:
        return f"Region({self.op}, anchor={self.anchor.name}, merged={self.merged})"

    @property
    def last(self) -> Node:
        """The last output of the first copy: where a report says that the region is."""
        return max(copies[0] for copies in self.outputs.values())

    def interior(self) -> list[Node]:
        """The nodes that are no output."""
        outputs = {node for copies in self.outputs.values() for node in copies}
        return [node for node in self.nodes if node not in outputs]

    def absorb(self, copy: Match) -> None:
        """Take in an equal region that the graph spells once more."""
        self.outputs = {name: tuple(dict.fromkeys((*nodes, *copy.outputs[name]))) for name, nodes in self.outputs.items()}
        self.nodes |= copy.nodes
        self.cheap |= copy.cheap
        self.merged += copy.merged


def dying(nodes: dict[Node, None], cheap: set[Node]) -> dict[Node, None]:
    """The nodes that nobody needs once the outputs among them are replaced.

    All but ``cheap`` ones with a reader that stays.
    """
    left = dict(nodes)
    for node in sorted(nodes, reverse=True):
        if node in cheap and any(user not in left for user in node.users):
            del left[node]
    return left
