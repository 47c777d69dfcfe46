# SPDX-License-Identifier: Apache-2.0
"""Which configs the kernels that work row by row take where no table has the case.

With a scale or a norm of its own for each row a program has whole rows.  A quantiser with a static scale, or one a group, and
no norm takes tiles: few tokens then still reach all multiprocessors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helion_compile.configs.case import Case

__all__ = ["adapt_row_config", "choose_quantizer_config", "choose_warps"]

FEW, MANY = 2**16, 2**19  # elements of the whole tensor
MOST_ELEMENTS = 64  # of a row, a thread: with 128 a norm spills, and took 3 to 4 times as long as Inductor's (H200)


def choose_warps(case: Case) -> int:
    """Warps that hold one row a program with about 16 elements a thread."""
    hidden_size = int(case.fields.get("hidden_size", 4096))
    warps = 1
    while warps < 16 and warps * 32 * 16 < hidden_size:
        warps *= 2
    return warps


def choose_quantizer_config(case: Case, warps: int) -> dict[str, Any]:
    """The default config of a quantiser without a norm; ``warps`` are those that hold a whole row, where a program has one."""
    if not _is_tiled(case):
        # For rows that are no power of two Helion would loop over pieces and read each row three times.
        return {"block_sizes": [1], "num_warps": warps, "reduction_loops": [None]}
    hidden_size, group = int(case.fields.get("hidden_size", 4096)), int(case.fields.get("group", 1))
    elements, warps = _choose_size(hidden_size * int(case.fields.get("num_tokens", 1)))
    width = min(elements, _pad(hidden_size))
    while width > 256 and hidden_size % width:  # whole tiles need no mask
        width //= 2
    columns = max(width // group, 1)
    return {"block_sizes": [max(elements // (columns * group), 1), columns], "num_warps": warps}


def adapt_row_config(config: Mapping[str, Any], measured: Case, asked: Case) -> Mapping[str, Any]:
    """The config of the nearest measured case for rows of another width: each thread has as much of a row as there."""
    width, known = (_pad(int(case.fields.get("hidden_size", 1))) for case in (asked, measured))
    is_norm = "residual" in asked.fields  # which every norm's case names
    if width == known or (_is_tiled(asked) and not is_norm):
        return config
    warps = int(config.get("num_warps", 4)) * width // known
    return {**config, "num_warps": min(max(warps, width // (32 * MOST_ELEMENTS), 1), 32)}


def _is_tiled(case: Case) -> bool:
    """Whether no element needs its whole row, if there is no norm."""
    return bool(case.fields.get("static")) or "group" in case.fields


def _choose_size(total: int) -> tuple[int, int]:
    """Elements and warps of a program, by the elements of the tensor."""
    if total <= FEW:
        return 256, 1
    return (1024, 4) if total <= MANY else (4096, 8)


def _pad(width: int) -> int:
    """The power of two that holds a row."""
    return 1 << (width - 1).bit_length()
