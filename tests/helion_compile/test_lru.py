# SPDX-License-Identifier: Apache-2.0
"""The cache that keeps what is used."""

from helion_compile.lru import LRUCache


def test_recent_keeps_what_is_used_and_forgets_the_rest():
    recent = LRUCache(4)
    for n in range(1, 101):
        assert recent[0] in ("kept", None)
        recent[0] or recent.remember(0, "kept")
        recent[n] or recent.remember(n, n)
        assert len(recent) <= 4
    assert recent[0] == "kept" and recent[1] is None and recent[100] == 100
    recent.clear()
    assert recent[0] is None and recent[100] is None
