# SPDX-License-Identifier: Apache-2.0
"""A bounded store of launch plans, emptied when what they were made from changes."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Hashable
from typing import Any

from helion_compile.lru import LRUCache

__all__ = ["MAX_PLANS", "PlanCache", "plan_lock"]

MAX_PLANS = 2048  # a plan takes about 5 kB; twice as many are kept at most

_everywhere: weakref.WeakSet[PlanCache] = weakref.WeakSet()
_watching_forks = False
_making = threading.RLock()


def plan_lock() -> threading.RLock:
    """The lock under which plans are made: Helion's tracing is not meant for several threads."""
    return _making


class PlanCache(LRUCache):
    """Plans by their keys; ``plans[key]`` is None where there is none.

    About the ``MAX_PLANS`` used last are kept, so a server that sees every token count does not grow without end.  A forked
    child starts with none: the parent's CUDA modules are not its own.

    Attributes:
        generation: grows with every :meth:`clear`.  A plan whose making began in an earlier one is not kept.
    """

    __hash__ = object.__hash__  # type: ignore[assignment]  # a dict has none, and a WeakSet wants one
    __eq__ = object.__eq__

    def __init__(self) -> None:
        super().__init__(MAX_PLANS)
        self.generation = 0
        self._lock = threading.Lock()
        self._places: weakref.WeakSet[Any] = weakref.WeakSet()
        _forget_in_children(self)

    def keep(self, key: Hashable, plan: Any, generation: int) -> bool:
        """Store ``plan`` unless :meth:`clear` was called since ``generation``; whether it was stored."""
        with self._lock:
            if generation == self.generation:
                self.remember(key, plan)
            return generation == self.generation

    def also_clear(self, place: Any) -> None:
        """From now on :meth:`clear` also calls ``place.clear()``, as long as ``place`` lives."""
        self._places.add(place)

    def clear(self) -> None:
        with self._lock:
            self.generation += 1
            super().clear()
        for place in list(self._places):
            place.clear()


def _forget_in_children(plans: PlanCache) -> None:
    global _watching_forks
    _everywhere.add(plans)
    if not _watching_forks:
        _watching_forks = True
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    global _making
    _making = threading.RLock()  # another thread of the parent may have held it, and these
    for plans in list(_everywhere):
        plans._lock = threading.Lock()
        plans.clear()
