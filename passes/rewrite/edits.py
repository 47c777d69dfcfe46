# SPDX-License-Identifier: Apache-2.0
"""Changes to a graph that can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch.fx import Graph, Node

__all__ = ["Edits"]


class Edits:
    """Changes to one graph: ``undo`` takes back all of them, until ``erase`` makes them final."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self._undo: list[Callable[[], Any]] = []

    def insert(
        self, after: Node, target: Callable[..., Any], args: tuple, kwargs: dict[str, Any], name: str | None = None
    ) -> Node:
        """A new call behind ``after``, called ``name`` or, if that is taken, ``name_1``; by default after its target."""
        with self.graph.inserting_after(after):
            node = self.graph.create_node("call_function", target, args, kwargs, name=name)
        self._undo.append(partial(self.graph.erase_node, node))
        return node

    def replace_uses(self, old: Node, new: Node, *, keep: Collection[Node]) -> None:
        """Let all readers of ``old`` but those in ``keep`` read ``new``, and stand behind it."""
        for user in [user for user in old.users if user not in keep]:
            self._undo.append(partial(_set_arguments, user, user.args, user.kwargs))
            user.replace_input_with(old, new)

    def detach(self, nodes: Collection[Node]) -> None:
        """Let ``nodes`` read nothing."""
        for node in nodes:
            self._undo.append(partial(_set_arguments, node, node.args, node.kwargs))
            _set_arguments(node, (), {})

    def move_readers_after(self, nodes: list[Node]) -> None:
        """Move all that depends on ``nodes``, which stand side by side, behind them, in the order it has."""
        last = nodes[-1]
        early: set[Node] = set()
        pending = list(nodes)
        while pending:
            for user in pending.pop().users:
                if user < last and user not in early and user not in nodes:
                    early.add(user)
                    pending.append(user)
        for user in sorted(early):
            self._undo.append(partial(user.prev.append, user))
            last.append(user)
            last = user

    @property
    def pending(self) -> bool:
        """Whether there is anything to take back."""
        return bool(self._undo)

    def undo(self) -> None:
        """Put the graph back as it was."""
        while self._undo:
            self._undo.pop()()

    def erase(self, nodes: Collection[Node]) -> None:
        """Erase nodes that only each other read.  After this there is no way back.

        Raises:
            ValueError: something else reads one of the nodes; none is erased.
        """
        for node in nodes:
            if readers := [user.name for user in node.users if user not in nodes]:
                raise ValueError(f"{node.name} cannot be erased, it is read by {', '.join(readers)}")
        self._undo.clear()
        for node in sorted(nodes, reverse=True):
            self.graph.erase_node(node)


def _set_arguments(node: Node, args: tuple, kwargs: dict[str, Any]) -> None:
    node.args, node.kwargs = args, kwargs
