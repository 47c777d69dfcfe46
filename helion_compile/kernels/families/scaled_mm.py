# SPDX-License-Identifier: Apache-2.0
"""``scaled_mm``: the product of two 8-bit matrices with their scales, for few tokens.

Letters: ``M`` rows of ``a`` (tokens), ``N`` rows of ``w`` (output features), ``K`` what is summed over.

Few tokens make a product that costs the time to read its weights, so the weights are the rows of the tensor core's tile (64 at
least) and the tokens its columns (8 at least), and where there are fewer tiles of weights than multiprocessors, ``split_k``
programs share the sum of one (``kernels/split_k.py``).

Numerics.  The contract is ``reference``: products and sums in fp32 (fp8) or int32 (int8), the column's scale, then the row's,
then the bias in fp32, and one rounding to ``dtype``.  On the tensor cores fp8 products are summed with fewer bits than fp32
has: over all of K with ``fast_accum``, otherwise over at most ``MOST_UNPROMOTED`` products before they are added in fp32, as
cuBLAS and CUTLASS do it.  The order of summation depends on the config alone: equal inputs give equal bits.
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
from helion_compile.kernels.families.scaled_mm_configs import choose_beyond_rows, choose_default, list_candidates, list_shapes

__all__ = ["ScaledMmArgs", "scaled_mm"]


class ScaledMmArgs(NamedTuple):
    """What ``scaled_mm`` takes; see there."""

    a: torch.Tensor
    w: torch.Tensor
    a_scale: torch.Tensor
    w_scale: torch.Tensor
    bias: torch.Tensor | None
    dtype: torch.dtype
    fast_accum: bool
    library: str = "torch"


# Into the L2, by the copy engine: neither registers nor a wait.  It takes multiples of 16 bytes at multiples of 16.
PREFETCH = """
if {bytes} > 0:
    begin = {begin} // 16 * 16
    ahead = tl.minimum({bytes}, {k} - begin).to(tl.int32)
    inside = (({rows} < {n}) & (ahead > 0)).to(tl.int32)
    tl.inline_asm_elementwise(
        "{{ .reg .pred p; setp.ne.b32 p, $2, 0; @p cp.async.bulk.prefetch.L2.global [$1], $3; mov.b32 $0, 0; }}",
        "=r,l,r,r", [({w} + {rows}.to(tl.int64) * {pitch} + begin).to(tl.int64), inside, ahead],
        dtype=tl.int32, is_pure=False, pack=1)
0
"""
_OPERANDS = (torch.float8_e4m3fn, torch.int8)
_LIBRARIES = ("torch", "cutlass")


@takes(ScaledMmArgs)
def _reference(args):
    a, w, bias = args.a, args.w, args.bias
    if a.dtype == torch.int8:
        # Exact: sums of 8-bit products fit the 53 bits of a double, and int8 has no matmul everywhere.
        product = (a.double() @ w.double().t()).float()
    else:
        product = a.float() @ w.float().t()
    product = product * args.w_scale[None, :] * args.a_scale[:, None]
    if bias is not None:
        product = product + bias.float()
    return product.to(args.dtype)


@takes(ScaledMmArgs)
def _library(args, *, out=None):
    """``torch._scaled_mm`` or vLLM's ``cutlass_scaled_mm``; into ``out``, one tensor, where that is given."""
    a, w, a_scale, w_scale, bias, dtype, fast_accum, library = args
    if library == "cutlass":
        result = torch.empty([a.size(0), w.size(0)], dtype=dtype, device=a.device) if out is None else out[0]
        torch.ops._C.cutlass_scaled_mm(result, a, w.t(), a_scale.view(-1, 1), w_scale.view(-1, 1), bias)
        return result
    by_tensor = a_scale.numel() == 1 and w_scale.numel() == 1
    scales = (a_scale, w_scale) if by_tensor else (a_scale.unsqueeze(1), w_scale.unsqueeze(0))
    arguments = (a, w.t(), *scales, bias, None, dtype, fast_accum)
    return torch._scaled_mm(*arguments) if out is None else torch.ops.aten._scaled_mm.out(*arguments, out=out[0])


@takes(ScaledMmArgs)
def _case(args):
    """The bias is no key field: it costs one load a column, whatever the config."""
    return Case(
        k=args.w.size(1),
        n=args.w.size(0),
        num_tokens=args.a.size(0),
        operands=args.a.dtype,
        dtype=args.dtype,
        scales="tensor" if args.a_scale.numel() == 1 and args.w_scale.numel() == 1 else "row",
        fast_accum=args.fast_accum,
        library=args.library,
    )


@takes(ScaledMmArgs)
def _check_supported(args):
    a, w, a_scale, w_scale, bias = args.a, args.w, args.a_scale, args.w_scale, args.bias
    for name, tensor in (("a", a), ("w", w)):
        if tensor.dtype not in _OPERANDS or tensor.dtype != a.dtype:
            return f"{name} is {tensor.dtype}; both operands are torch.float8_e4m3fn, or both torch.int8"
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
    if args.library not in _LIBRARIES:
        return f"the library is {args.library!r}; it is one of {', '.join(_LIBRARIES)}"
    if args.dtype not in FLOATS:
        return f"the result is {args.dtype}; it gives {', '.join(map(str, FLOATS))}"
    for name, scale, rows in (("a_scale", a_scale, a.size(0)), ("w_scale", w_scale, w.size(0))):
        if scale.dtype != torch.float32 or scale.dim() != 1 or not scale.is_contiguous():
            found = f"{scale.dtype} {tuple(scale.shape)} with strides {scale.stride()}"
            return f"{name} is {found}; it takes contiguous torch.float32 [{rows}]"
        if not (statically_known_true(scale.numel() == 1) or statically_known_true(scale.numel() == rows)):
            return f"{name} has {scale.numel()} elements; it takes one for each of {rows} rows, or one"
    if bias is not None and (bias.dim() != 1 or bias.stride(0) != 1):
        return f"the bias is {tuple(bias.shape)} with strides {tuple(bias.stride())}; it takes [N], contiguous"
    if bias is not None and bias.size(0) != w.size(0):
        return f"the bias has {bias.size(0)} elements and w {w.size(0)} rows; it takes one for each"
    if bias is not None and bias.dtype not in FLOATS:
        return f"the bias is {bias.dtype}; it takes {', '.join(map(str, FLOATS))}"
    return None


def _inputs(case, device):
    m, n, k = case["num_tokens"], case["n"], case["k"]
    operands = next(dtype for dtype in _OPERANDS if Case(dtype=dtype)["dtype"] == case["operands"])
    a, w = (_random(rows, k, operands, device) for rows in (m, n))
    a_scale, w_scale = (torch.rand(1 if case["scales"] == "tensor" else size, device=device) + 0.5 for size in (m, n))
    return ScaledMmArgs(
        a=a,
        w=w,
        a_scale=a_scale,
        w_scale=w_scale,
        bias=None,
        dtype=find_dtype(case),
        fast_accum=case["fast_accum"],
        library=case["library"],
    )


def _random(rows, k, dtype, device):
    if dtype == torch.int8:
        return torch.randint(-127, 128, (rows, k), dtype=torch.int8, device=device)
    return torch.randn(rows, k, device=device).to(dtype)


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    # Rows of 4096 by 1024 made the product of 4096 by 24576 slower than the library's, which the default config is not (H200).
    configs=Configs(default=choose_default, nearest=(), adapt=choose_beyond_rows),
    tuning=Tuning(inputs=_inputs, shapes=list_shapes, candidates=list_candidates),
    fallbacks={"library": _library},
    zeroed_workspace=True,
)
def scaled_mm(
    a: torch.Tensor,
    w: torch.Tensor,
    a_scale: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: hl.constexpr,
    fast_accum: hl.constexpr,
    library: hl.constexpr = "torch",
) -> torch.Tensor:
    """``(a @ w.T) * w_scale * a_scale + bias``, rounded once.

    Args:
        a: [M, K] fp8 e4m3 or int8, rows contiguous and 16-byte aligned.
        w: [N, K] of the same dtype, the same.
        a_scale: [M] fp32, or one element for all rows.
        w_scale: [N] fp32, or one element for all columns.
        bias: [N] bf16, fp16 or fp32, or None.
        dtype: of the result: bf16, fp16 or fp32.
        fast_accum: whether fp8 products may be summed over all of K with the tensor cores' fewer bits.
        library: whose product the tables compare with, and call where it is faster: "torch", or "cutlass" for vLLM's.

    Returns:
        [M, N] of ``dtype``.
    """
    m, k = a.size()
    k = hl.specialize(k)
    n = hl.specialize(w.size(0))
    hl.specialize(w.size(1))  # so that Helion knows the stride of its rows
    out = torch.empty([m, n], dtype=dtype, device=a.device)
    block_n = hl.register_block_size(16, n)
    block_m = hl.register_block_size(8, 256)
    split = hl.register_block_size(1, 16)
    # Helion makes tiles of a size of one where it sees that there is one token, and the tensor cores take none of these.
    tokens = helion.cdiv(m, 8) * 8
    rows_of_tiles = helion.cdiv(m, block_m)
    sent = split // 2 * 2  # slices; none where there is one
    tickets = torch.zeros([sent * helion.cdiv(n, block_n) * rows_of_tiles], dtype=torch.int32, device=a.device)
    slices = torch.zeros([sent * n * m], dtype=torch.int32, device=a.device)
    share = helion.cdiv(k, split)
    prefetch = hl.register_tunable("prefetch", EnumFragment((0, 512, 1024, 2048, 4096)))  # bytes of each row of the tile
    for part, tile_n, tile_m in hl.tile([split, n, tokens], block_size=[1, block_n, block_m]):
        launch_dependents()
        # Weights do not come from the kernel before, and a prefetch changes nothing where they do.
        hl.inline_triton(
            PREFETCH,
            {"w": w, "rows": tile_n.index, "n": n, "k": k, "pitch": w.stride(0), "begin": part.id * share, "bytes": prefetch},
            output_like=None,
        )
        grid_dependency_wait()
        tile = tile_n.id * rows_of_tiles + tile_m.id
        shared = {"tickets": tickets, "tile": tile, "split": split}
        ticket = hl.inline_triton(DRAW_TICKET, shared, output_like=hl.zeros([256], dtype=torch.int32))
        if a.dtype == torch.int8:
            acc = hl.zeros([tile_n, tile_m], dtype=torch.int32)
        else:
            acc = hl.zeros([tile_n, tile_m], dtype=torch.float32)
        inside = tile_m.index < m
        for tile_k in hl.tile(part.id * share, part.id * share + share):
            columns = hl.load(a, [tile_m, tile_k], extra_mask=inside[:, None]).T
            if fast_accum:
                acc = hl.dot(w[tile_n, tile_k], columns, acc=acc)
            else:
                acc = acc + hl.dot(w[tile_n, tile_k], columns)
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
            total = acc.to(torch.float32)
            if w_scale.size(0) == 1:
                total = total * w_scale[0]
            else:
                total = total * w_scale[tile_n][:, None]
            if a_scale.size(0) == 1:
                total = total * a_scale[0]
            else:
                total = total * hl.load(a_scale, [tile_m], extra_mask=inside)[None, :]
            if bias is not None:
                total = total + bias[tile_n].to(torch.float32)[:, None]
            hl.store(out, [tile_m, tile_n], total.to(dtype).T, extra_mask=inside[:, None])
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
