# SPDX-License-Identifier: Apache-2.0
"""A dict that forgets what was not used lately."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

__all__ = ["LRUCache"]


class LRUCache(dict):
    """Keeps the ``limit`` entries used last, and at most as many again; ``recent[key]`` is None for a forgotten key.

    Entries come in two generations: when the young one is full it becomes the old one, and the former old one is
    dropped. An entry of the old generation that is read is young again. So finding a young entry is a plain dict
    look-up, with no bookkeeping of who was used when.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._old: dict[Hashable, Any] = {}

    def __missing__(self, key: Hashable) -> Any:
        value = self._old.get(key)
        return None if value is None else self.remember(key, value)

    def remember(self, key: Hashable, value: Any) -> Any:
        """Adds an entry and returns its value."""
        if len(self) >= self._limit:
            self._old = dict(self)
            super().clear()
        self[key] = value
        return value

    def clear(self) -> None:
        super().clear()
        self._old = {}
