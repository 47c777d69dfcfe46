# SPDX-License-Identifier: Apache-2.0
"""All ranks make the dry runs of a warm-up, or none: a model's step has collectives, in which each waits for the others.

What ranks agree on is in the store behind vLLM's own group of all of them, never in a collective: a rank where the plug-in is
off takes part in none of ours.
"""

from __future__ import annotations

import datetime
import itertools
from typing import Any

__all__ = ["find_disagreement"]

_SECONDS = 60  # ranks come here from a step that all of them made, so that they are seconds apart
_AGREED = "agreed"
_turns = itertools.count()


def find_disagreement(group: Any, told: str, seconds: float = _SECONDS) -> str | None:
    """Why the ranks of vLLM's ``group`` cannot do a thing together; None where each of them told the same ``told``.

    Every rank that asks gets the same answer: the first one to know it decides for all.
    """
    if group.world_size == 1:
        return None
    from helion_compile.compat import get_process_group_store

    store = get_process_group_store(group.cpu_group)
    turn = f"helion_compile/{next(_turns)}"
    keys = [f"{turn}/{rank}" for rank in range(group.world_size)]
    store.set(keys[group.rank_in_group], told)
    try:
        store.wait(keys, datetime.timedelta(seconds=seconds))
    except RuntimeError:  # torch.distributed.DistStoreError, where there is one
        silent = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
        verdict = f"rank {', '.join(silent)} said nothing in {seconds:g} s; is the plug-in on there?"
    else:
        others = [str(rank) for rank, key in enumerate(keys) if store.get(key).decode() != told]
        verdict = f"rank {', '.join(others)} has other options, tables, versions or another GPU" if others else _AGREED
    decided = store.compare_set(f"{turn}/verdict", "", verdict).decode()
    return None if decided == _AGREED else decided
