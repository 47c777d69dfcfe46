# SPDX-License-Identifier: Apache-2.0
"""The configs of ``block_scaled_mm``: the default one, those that the tuner tries, and the shapes it is tuned for.

Letters: ``M`` tokens, ``N`` rows of the weight (output features), ``K`` what is summed over.
"""

from __future__ import annotations

import itertools

from helion_compile.kernels.families.block_scaled_mm_library import list_loaded
from helion_compile.kernels.families.scaled_mm_configs import MOST_WORDS, MULTIPROCESSORS

__all__ = ["choose_default", "list_candidates", "list_shapes"]

BLOCK = 128
MOST_TOKENS = 256  # with candidates


def choose_default(case):
    """The library: its products of blocks are fast for few tokens too, so only tables can tell that the kernel is faster."""
    return {"alternative": "library"}


def make_config(block_n, block_m, split, *, warps, stages, unroll=1):
    """One config; ``unroll`` groups are loaded together, and waited for once."""
    config = {"block_sizes": [block_n, block_m, split], "num_warps": warps, "num_stages": stages, "prefetch": 0}
    return config if unroll == 1 else {**config, "range_unroll_factors": [0, unroll]}


def list_candidates(case):
    """The configs worth a measurement: tiles, pipelines and splits whose programs all run at once, or nearly."""
    tokens, n, k = (int(case[name]) for name in ("num_tokens", "n", "k"))
    if tokens > MOST_TOKENS:
        return
    groups = -(-k // BLOCK)
    for block_m, (block_n, warps, unroll, pipelines) in itertools.product(_list_token_tiles(tokens, n), _PIPELINES):
        programs_without_split = -(-n // block_n) * -(-tokens // block_m)
        for split in (1, 2, 4, 8):
            # Who collects the slices holds all of them; what does not fit the registers is spilled, and compiles for seconds.
            # Beside its sum a program holds the product of one group.
            words = block_n * block_m * (split + 1 if split > 1 else 2) // (32 * warps)
            # The groups that are left over are loaded one by one.
            if words > MOST_WORDS or split > groups or groups % (split * unroll) and unroll > 1:
                continue
            steps = -(-groups // (split * unroll))
            # Of the pipelines longer than the loop the shortest does.
            longest = next((stages for stages in pipelines if stages >= steps), pipelines[-1])
            for stages in pipelines[: pipelines.index(longest) + 1]:
                shared = (block_n + block_m) * BLOCK * stages * unroll
                at_once = MULTIPROCESSORS * min(226_000 // shared, 4)
                if shared <= 225_000 and (split == 1 or split * programs_without_split <= 1.05 * at_once):
                    yield make_config(block_n, block_m, split, warps=warps, stages=stages, unroll=unroll)


def _list_token_tiles(tokens, n):
    """Numbers of tokens a tile: all of them, and half, where the tiles of all would leave multiprocessors without one."""
    whole = next((size for size in (16, 32, 64) if tokens <= size), 128)
    return (whole, whole // 2) if whole > 16 and 2 * -(-n // 64) <= MULTIPROCESSORS else (whole,)


# block_n, warps, groups loaded together, numbers of stages
_PIPELINES = (
    (64, 4, 1, (4, 6, 8)),
    (64, 4, 2, (2, 3, 4, 6)),
    (64, 4, 4, (2, 3)),
    (128, 4, 1, (3, 4, 6)),
    (128, 4, 2, (2, 3)),
    (128, 8, 1, (4, 6)),
    (128, 8, 2, (3,)),
)


def list_shapes(layer):
    """Projections as servers have them: q, k, v and gate, up merged; against each library that is there."""
    heads, shared = layer.attention_size, layer.key_value_size
    hidden, inner = layer.hidden_size, layer.intermediate_size
    merged = {(hidden, heads + 2 * shared), (hidden, 2 * inner), (heads, hidden), (inner, hidden)}
    return [{"k": k, "n": n, "scales": "block", "library": each} for each in list_loaded() for k, n in sorted(merged)]
