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

import itertools

import helion
import helion.language as hl
import torch
from helion.autotuner import EnumFragment
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.configs.case import Case
from helion_compile.helion_kernel import Configs, Tuning, kernel
from helion_compile.kernels.device.pdl import grid_dependency_wait, launch_dependents
from helion_compile.kernels.device.split_k import COLLECT, DRAW_TICKET, IS_LAST, SEND

__all__ = ["scaled_mm"]

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
FEW_TOKENS = 64  # up to here the kernel is used where no table says better, above the library
MOST_UNPROMOTED = 128
MOST_WORDS = 128  # of a tile and its slices that a thread of a candidate may hold, in registers of 4 bytes
MULTIPROCESSORS = 132  # of an H100 and H200, what the default config is made for
_OPERANDS = (torch.float8_e4m3fn, torch.int8)
_RESULTS = (torch.bfloat16, torch.float16, torch.float32)
_LIBRARIES = ("torch", "cutlass")


def _reference(a, w, a_scale, w_scale, bias, dtype, fast_accum, library="torch"):
    if a.dtype == torch.int8:
        # Exact: sums of 8-bit products fit the 53 bits of a double, and int8 has no matmul everywhere.
        product = (a.double() @ w.double().t()).float()
    else:
        product = a.float() @ w.float().t()
    product = product * w_scale[None, :] * a_scale[:, None]
    if bias is not None:
        product = product + bias.float()
    return product.to(dtype)


def _library(a, w, a_scale, w_scale, bias, dtype, fast_accum, library="torch", *, out=None):
    """``torch._scaled_mm`` or vLLM's ``cutlass_scaled_mm``; into ``out``, one tensor, where that is given."""
    if library == "cutlass":
        result = torch.empty([a.size(0), w.size(0)], dtype=dtype, device=a.device) if out is None else out[0]
        torch.ops._C.cutlass_scaled_mm(result, a, w.t(), a_scale.view(-1, 1), w_scale.view(-1, 1), bias)
        return result
    by_tensor = a_scale.numel() == 1 and w_scale.numel() == 1
    scales = (a_scale, w_scale) if by_tensor else (a_scale[:, None], w_scale[None, :])
    arguments = (a, w.t(), *scales, bias, None, dtype, fast_accum)
    return torch._scaled_mm(*arguments) if out is None else torch.ops.aten._scaled_mm.out(*arguments, out=out[0])


def _case(a, w, a_scale, w_scale, bias, dtype, fast_accum, library="torch"):
    """The bias is no fact: it costs one load a column, whatever the config."""
    return Case(
        k=w.size(1),
        n=w.size(0),
        num_tokens=a.size(0),
        operands=a.dtype,
        dtype=dtype,
        scales="tensor" if a_scale.numel() == 1 and w_scale.numel() == 1 else "row",
        fast_accum=fast_accum,
        library=library,
    )


def _check_supported(a, w, a_scale, w_scale, bias, dtype, fast_accum, library="torch"):
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
    if library not in _LIBRARIES:
        return f"the library is {library!r}; it is one of {', '.join(_LIBRARIES)}"
    if dtype not in _RESULTS:
        return f"the result is {dtype}; it gives {', '.join(map(str, _RESULTS))}"
    for name, scale, rows in (("a_scale", a_scale, a.size(0)), ("w_scale", w_scale, w.size(0))):
        if scale.dtype != torch.float32 or scale.dim() != 1 or not scale.is_contiguous():
            found = f"{scale.dtype} {tuple(scale.shape)} with strides {scale.stride()}"
            return f"{name} is {found}; it takes contiguous torch.float32 [{rows}]"
        if not (statically_known_true(scale.numel() == 1) or statically_known_true(scale.numel() == rows)):
            return f"{name} has {scale.numel()} elements; it takes one for each of {rows} rows, or one"
    if bias is not None and (bias.dim() != 1 or bias.stride(0) != 1):
        return f"the bias is {tuple(bias.shape)} with strides {tuple(bias.stride())}; it takes [N], contiguous"
    if bias is not None and bias.dtype not in _RESULTS:
        return f"the bias is {bias.dtype}; it takes {', '.join(map(str, _RESULTS))}"
    return None


def _default_config(case):
    """What was fastest on an H200 for the shapes of Qwen3-8B, by what the grid looks like; many tokens go to the library.

    All programs at once, one or two a multiprocessor: one that begins late begins with an empty pipeline, which costs 3 µs.
    CUTLASS is beaten by tuned configs, and not at all sizes.
    """
    tokens, n, k = (int(case.fields.get(name, value)) for name, value in (("num_tokens", 16), ("n", 4096), ("k", 4096)))
    if case.fields.get("library") == "cutlass" or (tokens > FEW_TOKENS and case.fields.get("operands") != "int8"):
        return {"alternative": "library"}
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


def _candidates(case):
    """The configs worth a measurement: tiles, pipelines and splits whose programs all run at once, or nearly.

    None for many tokens: at 1024 the best of them took 46 µs where the library took 37 (H200, K=4096, N=6144).
    """
    tokens, n, k = (int(case[name]) for name in ("num_tokens", "n", "k"))
    if tokens > 256:
        return
    for block_m, (block_n, block_k, warps, pipelines) in itertools.product(_tiles_of_tokens(tokens, n), _PIPELINES):
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


def _tiles_of_tokens(tokens, n):
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


def _inputs(case, device):
    m, n, k = case["num_tokens"], case["n"], case["k"]
    operands = next(dtype for dtype in _OPERANDS if Case(dtype=dtype)["dtype"] == case["operands"])
    a, w = (_random(rows, k, operands, device) for rows in (m, n))
    a_scale, w_scale = (torch.rand(1 if case["scales"] == "tensor" else size, device=device) + 0.5 for size in (m, n))
    dtype = next(dtype for dtype in _RESULTS if Case(dtype=dtype)["dtype"] == case["dtype"])
    return a, w, a_scale, w_scale, None, dtype, case["fast_accum"], case["library"]


def _random(rows, k, dtype, device):
    if dtype == torch.int8:
        return torch.randint(-127, 128, (rows, k), dtype=torch.int8, device=device)
    return torch.randn(rows, k, device=device).to(dtype)


def _shapes(layer):
    """Projections apart, as Hugging Face's models have them, and q, k, v and gate, up merged, as servers do.

    Against CUTLASS the merged ones, where vLLM's operators are loaded.
    """
    heads, shared = layer.attention_size, layer.key_value_size
    hidden, inner = layer.hidden_size, layer.intermediate_size
    merged = {(hidden, heads + 2 * shared), (hidden, 2 * inner), (heads, hidden), (inner, hidden)}
    apart = {(hidden, n) for n in (heads, shared, inner) if n}
    read = {"torch": merged | apart}
    if hasattr(torch.ops._C, "cutlass_scaled_mm"):
        read["cutlass"] = merged
    common = {"operands": "e4m3", "scales": "row", "fast_accum": True}
    return [{"k": k, "n": n, "library": library, **common} for library in read for k, n in sorted(read[library])]


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    # Rows of 4096 by 1024 made the product of 4096 by 24576 slower than the library's, which the default config is not (H200).
    configs=Configs(default=_default_config, nearest=()),
    tuning=Tuning(inputs=_inputs, shapes=_shapes, candidates=_candidates),
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
