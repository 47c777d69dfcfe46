"""What a chain of meanings becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch.fx import Node

from helion_compile.passes.match.chain import Chain, Reader
from helion_compile.passes.semantics import SemanticOp

__all__ = ["Chain", "Emit", "Fusion", "Leave", "Reader"]


class Emit(Protocol):
    """Inserts a call into the graph, at the place where the chain's replacement belongs."""

    def __call__(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """Call ``target`` on nodes and constants.

        ``target`` is an operator overload, a higher-order operator, ``operator.getitem`` or any function that fake
        tensors can run through: it is run once, and what it returns is the new node's ``meta["val"]``.  Arguments are
        constants, inputs of the chain and nodes that ``emit`` returned.
        """


class Leave(str):
    """A refusal that is a choice: what the graph holds is the better way here, and the string says why.

    The chain is reported as kept, no other fusion takes a part of it, and values of which it holds copies are computed once.
    """


@dataclass(frozen=True)
class Fusion:
    """A chain of meanings, in which each reads the one before, and what to put in its place.

    ``refuse(chain)`` is asked first: None, or a sentence that says what was found and what would fuse, or :class:`Leave`.
    ``build(chain, emit)`` makes the new nodes and returns them as ``{(Norm, "out"): node, (Quantize, "q"): node, …}``:
    one node for every output that ``chain.wanted`` has readers for, more are ignored.  A node has the dtype, device and
    number of elements of the output it replaces; another shape is reshaped to the original's.  Neither function changes
    the graph in another way, and what both do depends on nothing that ``FusionPass.uuid`` does not cover.
    """

    name: str
    chain: tuple[type[SemanticOp], ...]
    build: Callable[[Chain, Emit], Mapping[tuple[type[SemanticOp], str], Node]]
    refuse: Callable[[Chain], str | None] = lambda chain: None
