# SPDX-License-Identifier: Apache-2.0
"""The configs of ``block_scaled_mm``: the default one, those that the tuner tries, and the shapes it is tuned for.

Letters: ``M`` tokens, ``N`` rows of the weight (output features), ``K`` what is summed over.
"""

from __future__ import annotations

import itertools

from helion_compile.kernels.families.block_scaled_mm_library import list_loaded
from helion_compile.kernels.families.scaled_mm_configs import MOST_WORDS, MULTIPROCESSORS

__all__ = ["choose_beyond_rows", "choose_default", "list_candidates", "list_shapes"]

STEP = 512  # columns that are loaded together, four groups
FEW_TOKENS = 16  # up to here the default config is the kernel's
MOST_TOKENS = 64  # with candidates: from there on every library was faster by far (H200)


def choose_default(case):
    """The kernel for very few tokens, one program a multiprocessor or two; for more the library, which is fast there."""
    tokens, n, k = (int(case.fields.get(name, value)) for name, value in (("num_tokens", 16), ("n", 4096), ("k", 4096)))
    if tokens > FEW_TOKENS:
        return {"fallback": "library"}
    tiles, split = -(-n // 64), 1
    while split < 8 and split * tiles <= MULTIPROCESSORS and 2 * split * STEP <= k:
        split *= 2
    return make_config(64, 16, split, warps=4, stages=3 if split * tiles <= MULTIPROCESSORS else 2)


def choose_beyond_rows(config, measured, asked):
    """As ``scaled_mm`` does: rows end where the candidates do, and the library goes on."""
    return choose_default(asked) if asked["num_tokens"] > measured["num_tokens"] else config


def make_config(block_n, block_m, split, *, warps, stages):
    """One config; a stage of the pipeline is four groups."""
    return {"block_sizes": [block_n, block_m, split], "num_warps": warps, "num_stages": stages, "prefetch": 0}


def list_candidates(case):
    """The configs worth a measurement: tiles, pipelines and splits whose programs all run at once, or nearly."""
    tokens, n, k = (int(case[name]) for name in ("num_tokens", "n", "k"))
    if tokens > MOST_TOKENS:
        return
    steps_of_all = -(-k // STEP)
    for block_m, (block_n, warps) in itertools.product(_list_token_tiles(tokens), ((64, 4), (64, 8), (128, 4), (128, 8))):
        programs_without_split = -(-n // block_n) * -(-tokens // block_m)
        for split, stages in itertools.product((1, 2, 4, 8), (2, 3, 4)):
            # A program holds its sum, the product of a group, and the scales of two steps, a quarter of them each thread; who
            # collects the slices holds all of them.  What does not fit the registers is spilled, and compiles for seconds.
            threads = 32 * warps
            words = block_n * block_m * (split + 1 if split > 1 else 2) // threads
            scales = 8 * block_m // 4 // (2 if (block_n, warps) == (64, 8) else 1)
            steps = -(-steps_of_all // split)
            if (
                max(words, scales + 2 * block_n * block_m // threads) > MOST_WORDS
                or split > steps_of_all
                or stages > max(steps, 2)
            ):
                continue
            shared = (block_n + block_m) * STEP * stages
            at_once = MULTIPROCESSORS * min(226_000 // shared, 4)
            if shared <= 225_000 and (split == 1 or split * programs_without_split <= 1.05 * at_once):
                yield make_config(block_n, block_m, split, warps=warps, stages=stages)


def _list_token_tiles(tokens):
    """Numbers of tokens a tile: all of them, and half where they are more than the narrowest."""
    whole = next(size for size in (8, 16, 32, 64) if tokens <= size)
    return (whole, whole // 2) if whole > 16 else (whole, 16) if whole < 16 else (whole,)


def list_shapes(layer):
    """Projections as servers have them: q, k, v and gate, up merged; against each library that is there."""
    heads, shared = layer.attention_size, layer.key_value_size
    hidden, inner = layer.hidden_size, layer.intermediate_size
    merged = {(hidden, heads + 2 * shared), (hidden, 2 * inner), (heads, hidden), (inner, hidden)}
    return [{"k": k, "n": n, "scales": "block", "library": each} for each in list_loaded() for k, n in sorted(merged)]
