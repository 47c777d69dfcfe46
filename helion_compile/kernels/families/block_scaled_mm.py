# SPDX-License-Identifier: Apache-2.0
"""``block_scaled_mm``: the product of two fp8 matrices with scales of groups and blocks, for few tokens.

Letters: ``M`` rows of ``a`` (tokens), ``N`` rows of ``w`` (output features), ``K`` what is summed over, ``G`` its groups
of 128.

The tiles are those of ``scaled_mm``: weights are the rows of the tensor core's tile and tokens its columns, and ``split``
programs share the sum over K (``kernels/device/split_k.py``).  A tile of weights lies within one block of 128 rows, so each
step over K has one scale of the weights, a scalar, and one of each token.

Numerics.  The contract is ``reference``: each group's sum of products, times the product of its two scales, summed in fp32;
then the bias in fp32, and one rounding to ``dtype``.  On the tensor cores the 128 products of a group are summed with fewer
bits than fp32 has, as DeepGEMM and CUTLASS do it.  The order of summation depends on the config alone: equal inputs give equal
bits.
"""

from __future__ import annotations

from typing import NamedTuple

import helion
import helion.language as hl
import torch
from helion.autotuner import EnumFragment
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.configs.case import Case
from helion_compile.helion_kernel import Configs, Tuning, kernel
from helion_compile.kernels.arguments import takes
from helion_compile.kernels.device.pdl import grid_dependency_wait, launch_dependents
from helion_compile.kernels.device.rows import FLOATS, find_dtype
from helion_compile.kernels.device.split_k import COLLECT, DRAW_TICKET, IS_LAST, SEND
from helion_compile.kernels.families.block_scaled_mm_configs import (
    choose_beyond_rows,
    choose_default,
    list_candidates,
    list_shapes,
)
from helion_compile.kernels.families.block_scaled_mm_library import LIBRARIES, TAKES_BIAS, call_library
from helion_compile.kernels.families.scaled_mm import PREFETCH

__all__ = ["BLOCK", "BlockScaledMmArgs", "block_scaled_mm"]

BY_ROW = ("triton", "torchao")  # libraries that are given the scales of tokens row by row
BLOCK = 128  # elements of a group, and rows and columns of a block of the weight


class BlockScaledMmArgs(NamedTuple):
    """What ``block_scaled_mm`` takes; see there."""

    a: torch.Tensor
    w: torch.Tensor
    a_scale: torch.Tensor
    w_scale: torch.Tensor
    bias: torch.Tensor | None
    dtype: torch.dtype
    library: str = "torch"


@takes(BlockScaledMmArgs)
def _reference(args):
    """One product a group, so that no [M, G, N] is held."""
    a, w, a_scale, w_scale, bias = args.a.float(), args.w.float(), args.a_scale, args.w_scale, args.bias
    n, k = w.shape
    rows = w_scale.repeat_interleave(BLOCK, 0)[:n].t()
    result = torch.zeros(a.size(0), n, dtype=torch.float32, device=a.device)
    for group in range(-(-k // BLOCK)):
        columns = slice(group * BLOCK, min((group + 1) * BLOCK, k))
        scale = a_scale[:, group, None] * rows[group][None, :]
        result = result + (a[:, columns] @ w[:, columns].t()) * scale
    if bias is not None:
        result = result + bias.float()
    return result.to(args.dtype)


@takes(BlockScaledMmArgs)
def _case(args):
    """Neither the bias nor the layout of the scales is a key field: one load a column or group, whatever the config."""
    return Case(
        k=args.w.size(1), n=args.w.size(0), num_tokens=args.a.size(0), dtype=args.dtype, scales="block", library=args.library
    )


@takes(BlockScaledMmArgs)
def _check_supported(args):
    a, w, a_scale, w_scale, bias = args.a, args.w, args.a_scale, args.w_scale, args.bias
    for name, tensor in (("a", a), ("w", w)):
        if tensor.dtype != torch.float8_e4m3fn:
            return f"{name} is {tensor.dtype}; both operands are torch.float8_e4m3fn"
        if tensor.dim() != 2 or tensor.stride(1) != 1:
            return f"{name} has strides {tuple(tensor.stride())}; its rows are summed over and have to be contiguous"
        if not statically_known_true(tensor.stride(0) % 16 == 0):
            return f"a row of {name} begins {tensor.stride(0)} bytes after the one before; it takes multiples of 16"
    if any(isinstance(size, torch.SymInt) for size in (*w.shape, a.size(1))):
        return "the weight has a symbolic size; mark it static"
    if a.size(1) != w.size(1):
        return f"a has rows of {a.size(1)} and w of {w.size(1)} elements; it takes rows of one length"
    if w.size(1) % 16 or w.size(0) % 16:
        return f"the weight is {w.size(0)} by {w.size(1)}; it takes multiples of 16"
    if args.library not in LIBRARIES:
        return f"the library is {args.library!r}; it is one of {', '.join(LIBRARIES)}"
    if args.dtype not in FLOATS:
        return f"the result is {args.dtype}; it gives {', '.join(map(str, FLOATS))}"
    groups = -(-w.size(1) // BLOCK)
    for name, scale, shape in (
        ("a_scale", a_scale, (a.size(0), groups)),
        ("w_scale", w_scale, (-(-w.size(0) // BLOCK), groups)),
    ):
        if scale.dtype != torch.float32:
            return f"{name} is {scale.dtype}; it takes torch.float32, one scale an element"
        if scale.dim() != 2 or not all(statically_known_true(a == b) for a, b in zip(scale.shape, shape, strict=True)):
            return f"{name} is {tuple(scale.shape)}; it takes {list(shape)}, one scale a group of {BLOCK}"
    if bias is not None and args.library not in TAKES_BIAS:
        return f"there is a bias, which the library {args.library!r} does not add; {' and '.join(TAKES_BIAS)} do"
    if bias is not None and (bias.dim() != 1 or bias.stride(0) != 1):
        return f"the bias is {tuple(bias.shape)} with strides {tuple(bias.stride())}; it takes [N], contiguous"
    if bias is not None and bias.size(0) != w.size(0):
        return f"the bias has {bias.size(0)} elements and w {w.size(0)} rows; it takes one for each"
    if bias is not None and bias.dtype not in FLOATS:
        return f"the bias is {bias.dtype}; it takes {', '.join(map(str, FLOATS))}"
    return None


def _inputs(case, device):
    """Scales of tokens lie column by column where the library asks for it, else row by row."""
    m, n, k = case["num_tokens"], case["n"], case["k"]
    groups = -(-k // BLOCK)
    a, w = (torch.randn(rows, k, device=device).to(torch.float8_e4m3fn) for rows in (m, n))
    a_scale = torch.rand(groups, m, device=device).t() + 0.5
    return BlockScaledMmArgs(
        a=a,
        w=w,
        a_scale=a_scale.contiguous() if case["library"] in BY_ROW else a_scale,
        w_scale=torch.rand(-(-n // BLOCK), groups, device=device) + 0.5,
        bias=None,
        dtype=find_dtype(case),
        library=case["library"],
    )


def _multiply(w, a, tile_n, tile_m, first, k, inside):
    """In a kernel: the products of the group whose first column is ``first``."""
    columns = first + hl.arange(128)
    if k % 512 == 0:
        return hl.dot(hl.load(w, [tile_n, columns]), hl.load(a, [tile_m, columns], extra_mask=inside).T)
    there = columns < k
    ours = hl.load(a, [tile_m, columns], extra_mask=inside & there.unsqueeze(0))
    return hl.dot(hl.load(w, [tile_n, columns], extra_mask=there.unsqueeze(0)), ours.T)


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    configs=Configs(default=choose_default, nearest=(), adapt=choose_beyond_rows),
    tuning=Tuning(inputs=_inputs, shapes=list_shapes, candidates=list_candidates),
    fallbacks={"library": takes(BlockScaledMmArgs)(call_library)},
    zeroed_workspace=True,
)
def block_scaled_mm(
    a: torch.Tensor,
    w: torch.Tensor,
    a_scale: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: hl.constexpr,
    library: hl.constexpr = "torch",
) -> torch.Tensor:
    """``sum over g of (a_g @ w_g.T) * a_scale[:, g] * w_scale[n // 128, g]``, plus ``bias``, rounded once.

    Args:
        a: [M, K] fp8 e4m3, rows contiguous and 16-byte aligned.
        w: [N, K] fp8 e4m3, the same.
        a_scale: [M, G] fp32, in any layout: its strides are passed as they are.
        w_scale: [ceil(N / 128), G] fp32, in any layout.
        bias: [N] bf16, fp16 or fp32, or None.
        dtype: of the result: bf16, fp16 or fp32.
        library: whose product the tables compare with, and call where it is faster.

    Returns:
        [M, N] of ``dtype``.
    """
    m, k = a.size()
    k = hl.specialize(k)
    n = hl.specialize(w.size(0))
    hl.specialize(w.size(1))  # so that Helion knows the stride of its rows
    out = torch.empty([m, n], dtype=dtype, device=a.device)
    block_n = hl.register_block_size(16, 128)
    block_m = hl.register_block_size(8, 256)
    split = hl.register_block_size(1, 16)
    # Helion makes tiles of a size of one where it sees that there is one token, and the tensor cores take none of these.
    tokens = helion.cdiv(m, 8) * 8
    rows_of_tiles = helion.cdiv(m, block_m)
    sent = split // 2 * 2  # slices; none where there is one
    tickets = torch.zeros([sent * helion.cdiv(n, block_n) * rows_of_tiles], dtype=torch.int32, device=a.device)
    slices = torch.zeros([sent * n * m], dtype=torch.int32, device=a.device)
    last = helion.cdiv(k, 128) - 1  # group
    steps = helion.cdiv(k, 512)  # of four groups
    share = helion.cdiv(steps, split)
    prefetch = hl.register_tunable("prefetch", EnumFragment((0, 512, 1024, 2048, 4096)))  # bytes of each row of the tile
    for part, tile_n, tile_m in hl.tile([split, n, tokens], block_size=[1, block_n, block_m]):
        launch_dependents()
        # Weights do not come from the kernel before, and a prefetch changes nothing where they do.
        hl.inline_triton(
            PREFETCH,
            {
                "w": w,
                "rows": tile_n.index,
                "n": n,
                "k": k,
                "pitch": w.stride(0),
                "begin": part.id * share * 512,
                "bytes": prefetch,
            },
            output_like=None,
        )
        grid_dependency_wait()
        tile = tile_n.id * rows_of_tiles + tile_m.id
        shared = {"tickets": tickets, "tile": tile, "split": split}
        ticket = hl.inline_triton(DRAW_TICKET, shared, output_like=hl.zeros([256], dtype=torch.int32))
        acc = hl.zeros([tile_n, tile_m], dtype=torch.float32)
        inside = tile_m.index < m
        inside_rows = inside[:, None]
        block = tile_n.begin // 128
        begin = part.id * share
        end = min(begin + share, steps)
        # The scales of a step are asked for a step before: from the L2, while weights are read, they take about as long.
        now = min(begin, steps - 1) * 4
        scale_0 = hl.load(a_scale, [tile_m, now], extra_mask=inside) * w_scale[block, now]
        scale_1 = hl.load(a_scale, [tile_m, min(now + 1, last)], extra_mask=inside) * w_scale[block, min(now + 1, last)]
        scale_2 = hl.load(a_scale, [tile_m, min(now + 2, last)], extra_mask=inside) * w_scale[block, min(now + 2, last)]
        scale_3 = hl.load(a_scale, [tile_m, min(now + 3, last)], extra_mask=inside) * w_scale[block, min(now + 3, last)]
        for step in hl.grid(begin, end):
            then = min(step + 1, steps - 1) * 4
            row_0 = hl.load(a_scale, [tile_m, then], extra_mask=inside)
            block_0 = w_scale[block, then]
            row_1 = hl.load(a_scale, [tile_m, min(then + 1, last)], extra_mask=inside)
            block_1 = w_scale[block, min(then + 1, last)]
            row_2 = hl.load(a_scale, [tile_m, min(then + 2, last)], extra_mask=inside)
            block_2 = w_scale[block, min(then + 2, last)]
            row_3 = hl.load(a_scale, [tile_m, min(then + 3, last)], extra_mask=inside)
            block_3 = w_scale[block, min(then + 3, last)]
            acc = acc + _multiply(w, a, tile_n, tile_m, step * 512, k, inside_rows) * scale_0[None, :]
            acc = acc + _multiply(w, a, tile_n, tile_m, step * 512 + 128, k, inside_rows) * scale_1[None, :]
            acc = acc + _multiply(w, a, tile_n, tile_m, step * 512 + 256, k, inside_rows) * scale_2[None, :]
            acc = acc + _multiply(w, a, tile_n, tile_m, step * 512 + 384, k, inside_rows) * scale_3[None, :]
            scale_0 = row_0 * block_0
            scale_1 = row_1 * block_1
            scale_2 = row_2 * block_2
            scale_3 = row_3 * block_3
        is_last = hl.inline_triton(IS_LAST, {"ticket": ticket, "split": split}, output_like=hl.zeros([], dtype=torch.int32))
        if is_last == 1:
            acc = hl.inline_triton(
                COLLECT,
                {
                    "part": acc,
                    "slices": slices,
                    "slice": part.id,
                    "rows": tile_n.index,
                    "columns": tile_m.index,
                    "n": n,
                    "m": m,
                    "tickets": tickets,
                    "tile": tile,
                    "split": split,
                },
                output_like=acc,
            )
            if bias is not None:
                acc = acc + bias[tile_n].to(torch.float32)[:, None]
            hl.store(out, [tile_m, tile_n], acc.to(dtype).T, extra_mask=inside[:, None])
        else:
            hl.inline_triton(
                SEND,
                {
                    "part": acc,
                    "slices": slices,
                    "slice": part.id,
                    "rows": tile_n.index,
                    "columns": tile_m.index,
                    "n": n,
                    "m": m,
                    "split": split,
                },
                output_like=None,
            )
    return out
