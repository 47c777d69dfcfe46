"""What the kernels that work row by row share: which tensors they take, and the config when no table has one."""

from __future__ import annotations

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.case import Case

__all__ = ["default_config", "dtype_of", "refuse_rows"]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_ROW = 65536  # elements: the whole row is held in registers


def refuse_rows(**tensors: torch.Tensor | None) -> str | None:
    """Why these tensors [M, K], or [K] for weights, cannot be taken row by row, as a sentence; None if they can."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype not in DTYPES:
            return f"{name} is {_text(tensor.dtype)}; it takes {', '.join(map(_text, DTYPES))}"
        if tensor.stride(-1) != 1:
            return (
                f"the last dimension of {name} is not contiguous (strides {tuple(tensor.stride())}); "
                f"call .contiguous() on it before"
            )
        if isinstance(tensor.size(-1), torch.SymInt):
            return f"the last dimension of {name} has a symbolic size; mark it static"
        if (
            tensor.dim() == 2
            and statically_known_true(_reach(tensor) >= 2**31)
            and statically_known_true(tensor.numel() < 2**31)
        ):
            return (
                f"{name} reaches {_reach(tensor)} elements into memory with {tensor.numel()} of its own (strides "
                f"{tuple(tensor.stride())}), and Helion chooses 32-bit offsets by the latter; call .contiguous() on it before"
            )
        if tensor.size(-1) > MAX_ROW:
            return f"a row of {name} has {tensor.size(-1)} elements, more than {MAX_ROW}"
    return None


def dtype_of(case: Case) -> torch.dtype:
    """The dtype that a case names: the inverse of how :class:`Case` shortens it."""
    return next(dtype for dtype in DTYPES if Case(dtype=dtype)["dtype"] == case["dtype"])


def default_config(case: Case) -> dict[str, object]:
    """One row a program, held in registers, and as many warps as give each thread about 16 elements.

    For rows that are no power of two Helion would loop over pieces and read each row three times.
    """
    hidden_size = int(case.facts.get("hidden_size", 4096))
    warps = 1
    while warps < 16 and warps * 32 * 16 < hidden_size:
        warps *= 2
    return {"block_sizes": [1], "num_warps": warps, "reduction_loops": [None]}


def _reach(tensor: torch.Tensor) -> int:
    """Elements from the first to the last of [M, K], including those in between that are not its own."""
    return (tensor.size(0) - 1) * tensor.stride(0) + tensor.size(1)


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
