"""Which tiles a quantiser without a norm takes where no table has the case.

With a scale of its own for each row a program has whole rows.  With a static scale, or one a group, rows fall apart into
tiles: few tokens then still reach all multiprocessors.
"""

from __future__ import annotations

from typing import Any

from helion_compile.configs.case import Case

__all__ = ["choose_quantizer_config", "is_tiled"]

FEW, MANY = 2**16, 2**19  # elements of the whole tensor


def choose_quantizer_config(case: Case, warps: int) -> dict[str, Any]:
    """The default config of ``case``; ``warps`` are those that hold a whole row, where a program has one."""
    if not is_tiled(case):
        # For rows that are no power of two Helion would loop over pieces and read each row three times.
        return {"block_sizes": [1], "num_warps": warps, "reduction_loops": [None]}
    hidden_size, group = int(case.fields.get("hidden_size", 4096)), int(case.fields.get("group", 1))
    elements, warps = _choose_size(hidden_size * int(case.fields.get("num_tokens", 1)))
    width = min(elements, 1 << (hidden_size - 1).bit_length())
    while width > 256 and hidden_size % width:  # whole tiles need no mask
        width //= 2
    columns = max(width // group, 1)
    return {"block_sizes": [max(elements // (columns * group), 1), columns], "num_warps": warps}


def is_tiled(case: Case) -> bool:
    """Whether no element needs its whole row."""
    return bool(case.fields.get("static")) or "group" in case.fields


def _choose_size(total: int) -> tuple[int, int]:
    """Elements and warps of a program, by the elements of the tensor."""
    if total <= FEW:
        return 256, 1
    return (1024, 4) if total <= MANY else (4096, 8)
