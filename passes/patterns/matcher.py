# SPDX-License-Identifier: Apache-2.0
"""The vocabulary in which a pattern is written: steps from a node to its producers and readers.

A matcher remembers every node it steps over; together they are the interior of the match.  A step that
finds something else raises ``MatchFailed`` with a refusal that says what it found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NoReturn

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.values import (
    CASTS,
    CLONES,
    RESHAPES,
    VIEWS,
    format_target,
    lossless,
    number,
    only_reader,
    same_shape,
    shape_of,
    unshaped,
)
from helion_compile.passes.match.match import Match
from helion_compile.passes.semantics import SemanticOp

__all__ = ["ABS", "ADD", "CEILING", "CLAMP", "DIV", "MEAN", "MUL", "RECIPROCAL", "SUB", "MatchFailed", "Matcher"]

aten = torch.ops.aten

ADD = frozenset({aten.add.Tensor, aten.add.Scalar})
SUB = frozenset({aten.sub.Tensor, aten.sub.Scalar})
MUL = frozenset({aten.mul.Tensor, aten.mul.Scalar})
DIV = frozenset({aten.div.Tensor, aten.div.Scalar})
ABS = frozenset({aten.abs.default})
MEAN = frozenset({aten.mean.dim})
RECIPROCAL = frozenset({aten.reciprocal.default})
FLOOR = frozenset({aten.clamp_min.default, aten.clamp_min.Tensor, aten.maximum.default})
CEILING = frozenset({aten.clamp_max.default, aten.clamp_max.Tensor, aten.minimum.default})
CLAMP = FLOOR | CEILING | {aten.clamp.default}


class MatchFailed(Exception):
    """A candidate that turned out to be something else, or to be written as no pattern has it yet.

    ``matched`` are the nodes that were stepped over before.
    """

    def __init__(self, refusal: Refusal, matched: Collection[Node] = ()):
        super().__init__(str(refusal))
        self.refusal = refusal
        self.matched = tuple(matched)


class Matcher:
    """Steps from ``anchor`` through a graph.

    ``nodes`` are those stepped over; ``cheap`` are those among them that others may read without harm to the fusion.
    """

    def __init__(self, anchor: Node):
        self.anchor = anchor
        self.nodes: dict[Node, None] = {anchor: None}
        self.cheap: set[Node] = set()

    def match(self, op: SemanticOp, inputs: dict[str, Node], outputs: dict[str, Node | tuple[Node, ...]]) -> Match:
        """The match of all that was stepped over."""
        copies = {name: node if isinstance(node, tuple) else (node,) for name, node in outputs.items()}
        for nodes in copies.values():
            self.nodes |= dict.fromkeys(nodes)
        for node in inputs.values():
            self.nodes.pop(node, None)
        return Match(op, self.anchor, inputs, copies, self.nodes, self.cheap)

    def take(self, node: Node, *, cheap: bool = False) -> Node:
        """Step over ``node``.  ``cheap``: other readers do not prevent fusing, they keep the node alive."""
        self.nodes[node] = None
        if cheap:
            self.cheap.add(node)
        return node

    def fail(self, node: Any, kind: RefusalKind, found: str, remedy: str, /, **details: Any) -> NoReturn:
        """Raise :class:`MatchFailed`; see :meth:`Refusal.of`."""
        at = node if isinstance(node, Node) else self.anchor
        raise MatchFailed(Refusal.of(kind, at, found, remedy, **details), self.nodes)

    # Up: from a value to what it was computed from.

    def through_views(self, value: Any) -> Any:
        """The node whose elements ``value`` shows under another shape, in the same order."""
        source = unshaped(value)
        while value is not source:
            value = self.take(value, cheap=True).args[0]
        return source

    def to(self, value: Any, targets: Collection[Any], what: str) -> Node:
        """The producer of ``value`` behind views, which must call one of ``targets``."""
        node = self.through_views(value)
        if not isinstance(node, Node) or node.target not in targets:
            expected = " or ".join(sorted(format_target(target) for target in targets))
            self.fail(node, RefusalKind.PATTERN, "{node}", "{what} ({expected})", node=node, what=what, expected=expected)
        return self.take(node)

    def times_one(self, value: Any) -> Any:
        """The producer of ``value`` behind views and multiplications by 1, which ``1.0 / x`` leaves in a graph."""
        while isinstance(value := self.through_views(value), Node) and value.target in MUL:
            found = self.with_number(value)
            if found is None or found[1] != 1:
                break
            self.take(value)
            value = found[0]
        return value

    def exact(self, value: Any) -> Any:
        """The narrowest node that ``value`` equals bit for bit, behind casts that lose nothing."""
        source = lossless(value)
        while value is not source:
            value = self.take(value, cheap=True).args[0]
        return source

    def same(self, value: Any, known: Node) -> bool:
        """Whether ``value`` is ``known``, or shows the same node through equal views."""
        passed: list[Node] = []
        while value is not known:
            if not (isinstance(value, Node) and isinstance(known, Node) and value.target is known.target):
                return False
            if value.target not in VIEWS or (value.args[1:], value.kwargs) != (known.args[1:], known.kwargs):
                return False
            passed.append(value)
            value, known = value.args[0], known.args[0]
        for view in passed:
            self.take(view, cheap=True)
        return True

    def number(self, value: Any) -> float | None:
        """A constant, written in Python or filled into a tensor; None for anything else."""
        found = number(value)
        if found is not None and isinstance(value, Node):
            self.take(value, cheap=True)
        return found

    def with_number(self, node: Node) -> tuple[Node, float] | None:
        """The tensor and the constant of a two-operand node, in either order; None when both are tensors."""
        left, right = node.args[:2]
        for tensor, constant in ((left, right), (right, left)):
            if isinstance(tensor, Node) and (found := self.number(constant)) is not None:
                return tensor, found
        return None

    def clamp(self, node: Node) -> tuple[Node, float | None, float | None] | None:
        """What a node clamps to constants, and the lower and the upper one; None when it does no such thing."""
        if node.target is aten.clamp.default:
            value, low, high = (*node.args, None)[:3]
            low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
            return value, self.number(low), self.number(high)
        if node.target not in FLOOR | CEILING:
            return None
        found = self.with_number(node)
        if found is None:
            return None
        value, bound = found
        return (value, bound, None) if node.target in FLOOR else (value, None, bound)

    def copies(self, node: Node) -> tuple[Node, ...]:
        """A cast together with the same cast of the same value elsewhere in the graph."""
        if node.target not in CASTS:
            return (node,)
        calls = (node.target, node.args, node.kwargs)
        return (node, *(u for u in node.args[0].users if u is not node and (u.target, u.args, u.kwargs) == calls))

    def over_last_dim(self, node: Node, dims: Any, what: str) -> None:
        """Check that a reduction runs over the last dimension alone."""
        rank = max(1, len(shape_of(node.args[0]) or ()))
        dims = [dims] if isinstance(dims, int) else list(dims or range(rank))
        if [dim % rank for dim in dims] != [rank - 1]:
            self.fail(
                node,
                RefusalKind.PATTERN,
                "{node} over {dims} of {rank}",
                "{what} over the last dimension",
                node=node,
                dims=tuple(dims),
                rank=rank,
                what=what,
            )

    def one_number_a_row(self, value: Any, *, over: Node, what: str, at: Node) -> None:
        """Check that ``value`` as ``at`` reads it is [..., 1] where ``over`` is [..., K]."""
        rows = (shape_of(over) or ())[:-1]
        if not same_shape(shape_of(value), (*rows, 1)):
            self.fail(
                at,
                RefusalKind.PATTERN,
                "{value} of shape {shape}",
                "{what} of shape {expected}, one number a row",
                value=value,
                shape=shape_of(value) or (),
                what=what,
                expected=(*rows, 1),
            )

    # Down: from a value to who reads it.

    def readers(self, node: Node) -> list[Node]:
        """The nodes that read ``node``, behind views."""
        found: dict[Node, None] = {}
        for user in node.users:
            if user.target in RESHAPES:
                found |= dict.fromkeys(self.readers(user))
            else:
                found[user] = None
        return list(found)

    def past_clone(self, node: Node) -> Node:
        """The copy of ``node`` if that is all that reads it: torch's RMSNorm makes its result contiguous; else ``node``."""
        copy = only_reader(node)
        if copy is None or copy.target not in CLONES:
            return node
        self.take(node)
        return self.take(copy)

    def other(self, node: Node, value: Node, *, behind: Callable[[Any], Any] = lambda operand: operand) -> Any:
        """The operand of a two-operand node whose partner is ``value``, or ``value`` once seen ``behind`` something.

        None when neither is.
        """
        left, right = node.args[:2]
        return right if behind(left) is value else left if behind(right) is value else None
