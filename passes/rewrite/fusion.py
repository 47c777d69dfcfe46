# SPDX-License-Identifier: Apache-2.0
"""What a chain of semantic ops becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch.fx import Node

from helion_compile.passes.account.refusal import Refusal
from helion_compile.passes.match.chain import Chain, Reader
from helion_compile.passes.semantics import SemanticOp

__all__ = ["Chain", "Emit", "Fusion", "Reader"]


class Emit(Protocol):
    """Inserts a call into the graph, at the chain's insertion point."""

    def __call__(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """Call ``target`` on nodes and constants.

        ``target`` is an operator overload, a higher-order operator, ``operator.getitem`` or any function that fake
        tensors can run through: it is run once, and what it returns is the new node's ``meta["val"]``.  Arguments are
        constants, inputs of the chain and nodes that ``emit`` returned.
        """


def _concerns_all(chain: Chain) -> bool:
    return True


@dataclass(frozen=True)
class Fusion:
    """A chain of semantic ops, in which each reads the one before, and what to put in its place.

    ``concerns(chain)`` says whether the fusion is about such a chain at all; of others it neither takes nor refuses one.

    ``check(chain)`` is asked next: None, or a :class:`Refusal`, which ``chain.refuse`` makes.  One of the kind
    ``UNPROFITABLE`` or ``UNTUNED`` keeps the chain: no other fusion takes a part of it, and copies of one value are computed
    once.
    ``build(chain, emit)`` makes the new nodes and returns them as ``{(Norm, "out"): node, (Quantize, "q"): node, …}``:
    one node for every output that something outside the chain reads, more are ignored.  A node has the dtype, device and
    number of elements of the output it replaces; another shape is reshaped to the original's.  Neither function changes
    the graph in another way, and what both do depends on nothing that ``FusionPass.uuid`` does not cover.
    """

    name: str
    chain: tuple[type[SemanticOp], ...]
    build: Callable[[Chain, Emit], Mapping[tuple[type[SemanticOp], str], Node]]
    check: Callable[[Chain], Refusal | None] = lambda chain: None
    concerns: Callable[[Chain], bool] = _concerns_all

    def __post_init__(self) -> None:
        chain = self.chain if isinstance(self.chain, (tuple, list)) else ()
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"a fusion is named by a text such as 'norm_quantize', not {self.name!r}")
        if not chain or not all(isinstance(op, type) and issubclass(op, SemanticOp) for op in chain):
            raise TypeError(
                f"fusion {self.name!r}: chain={self.chain!r}, where semantic ops belong, such as chain=(Norm, Quantize)"
            )
        object.__setattr__(self, "chain", tuple(chain))
        for what, takes in (("build", "(chain, emit)"), ("check", "(chain)"), ("concerns", "(chain)")):
            if not callable(getattr(self, what)):
                raise TypeError(
                    f"fusion {self.name!r}: {what}={getattr(self, what)!r}, where a function belongs that takes {takes}"
                )
