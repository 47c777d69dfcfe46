# SPDX-License-Identifier: Apache-2.0
"""The configs of ``scaled_mm``: the default one, those that the tuner tries, and the shapes it is tuned for.

Letters: ``M`` tokens, ``N`` rows of the weight (output features), ``K`` what is summed over.
"""

from __future__ import annotations

import itertools

import torch

__all__ = [
    "FEW_TOKENS",
    "MOST_UNPROMOTED",
    "MULTIPROCESSORS",
    "choose_beyond_rows",
    "choose_default",
    "list_candidates",
    "list_shapes",
]

FEW_TOKENS = 64  # up to here the kernel is used where no table says better, above the library
MOST_UNPROMOTED = 128
MOST_WORDS = 128  # of a tile and its slices that a thread of a candidate may hold, in registers of 4 bytes
MULTIPROCESSORS = 132  # of an H100 and H200, what the default config is made for


def choose_default(case):
    """What was fastest on an H200 for the shapes of Qwen3-8B, by what the grid looks like; many tokens go to the library.

    All programs at once, one or two a multiprocessor: one that begins late begins with an empty pipeline, which costs 3 µs.
    CUTLASS is beaten by tuned configs, and not at all sizes.
    """
    tokens, n, k = (int(case.fields.get(name, value)) for name, value in (("num_tokens", 16), ("n", 4096), ("k", 4096)))
    if case.fields.get("library") == "cutlass" or (tokens > FEW_TOKENS and case.fields.get("operands") != "int8"):
        return {"fallback": "library"}
    block_m = 16 if tokens <= 16 else 32 if tokens <= 32 else 64
    tiles = -(-n // 64)
    if tiles >= 2 * MULTIPROCESSORS:
        block_n, block_k, stages, split = 128, 256, 3, 1
    elif tiles >= 0.7 * MULTIPROCESSORS:
        block_n, block_k, stages, split = 64, 512, 3, 1
    else:
        block_n, block_k, stages, split = 64, 256, 6, 1
        while split < 8 and 2 * split * tiles <= MULTIPROCESSORS and k >= 1024 * split:
            split *= 2
    if case.fields.get("fast_accum") is False:
        block_k, stages = MOST_UNPROMOTED, 6
    while block_k > 32 and block_k * split > k:
        block_k //= 2
    while stages > 2 and (block_n + block_m) * block_k * stages > 200_000:
        stages -= 1
    return {"block_sizes": [block_n, block_m, split, block_k], "num_warps": 4, "num_stages": stages, "prefetch": 0}


def choose_beyond_rows(config, measured, asked):
    """Of a row for fewer tokens nothing follows for more: the library catches up as they grow."""
    return choose_default(asked) if asked["num_tokens"] > measured["num_tokens"] else config


def list_candidates(case):
    """The configs worth a measurement: tiles, pipelines and splits whose programs all run at once, or nearly.

    None for many tokens: at 1024 the best of them took 46 µs where the library took 37 (H200, K=4096, N=6144).
    """
    tokens, n, k = (int(case[name]) for name in ("num_tokens", "n", "k"))
    if tokens > 256:
        return
    for block_m, (block_n, block_k, warps, pipelines) in itertools.product(_list_token_tiles(tokens, n), _PIPELINES):
        if block_k > MOST_UNPROMOTED and not case["fast_accum"]:
            continue
        programs_without_split = -(-n // block_n) * -(-tokens // block_m)
        for split in (1, 2, 4, 8):
            # Who collects the slices holds all of them; what does not fit the registers is spilled, and compiles for seconds.
            words = block_n * block_m * (split + 1 if split > 1 else 1) // (32 * warps)
            if words > MOST_WORDS or split * block_k > k:
                continue
            steps = -(-k // (split * block_k))
            # Of the pipelines longer than the loop the shortest does.
            longest = next((stages for stages in pipelines if stages >= steps), pipelines[-1])
            for stages in pipelines[: pipelines.index(longest) + 1]:
                shared = (block_n + block_m) * block_k * stages
                at_once = MULTIPROCESSORS * min(226_000 // shared, 4)
                if shared <= 225_000 and (split == 1 or split * programs_without_split <= 1.05 * at_once):
                    yield {
                        "block_sizes": [block_n, block_m, split, block_k],
                        "num_warps": warps,
                        "num_stages": stages,
                        "prefetch": 0,
                    }


def _list_token_tiles(tokens, n):
    """Numbers of tokens a tile: all of them, and half, where the tiles of all would leave multiprocessors without one."""
    whole = next((size for size in (16, 32, 64, 128) if tokens <= size), 256)
    return (whole, whole // 2) if whole > 16 and 2 * -(-n // 64) <= MULTIPROCESSORS else (whole,)


# block_n, block_k, warps, numbers of stages
_PIPELINES = (
    (64, 128, 4, (4, 6, 8)),
    (64, 256, 4, (2, 3, 4, 6)),
    (64, 512, 4, (2, 3)),
    (128, 128, 4, (3, 4, 6)),
    (128, 128, 8, (4,)),
    (128, 256, 4, (2, 3)),
    (128, 256, 8, (3,)),
)


def list_shapes(layer):
    """Projections apart, as Hugging Face's models have them, and q, k, v and gate, up merged, as servers do.

    Against CUTLASS the merged ones, where vLLM's operators are loaded.
    """
    heads, shared = layer.attention_size, layer.key_value_size
    hidden, inner = layer.hidden_size, layer.intermediate_size
    merged = {(hidden, heads + 2 * shared), (hidden, 2 * inner), (heads, hidden), (inner, hidden)}
    apart = {(hidden, n) for n in (heads, shared, inner) if n}
    sizes = {"torch": merged | apart}
    if hasattr(torch.ops._C, "cutlass_scaled_mm"):
        sizes["cutlass"] = merged
    common = {"operands": "e4m3", "scales": "row", "fast_accum": True}
    return [{"k": k, "n": n, "library": library, **common} for library in sizes for k, n in sorted(sizes[library])]
