"""``rope`` and ``norm_rope``: rotary position embedding, alone or behind an RMSNorm of each head, in one contiguous pass.

Letters: ``B`` sequences, ``S`` tokens of each, ``H`` heads, ``D`` elements of a head, ``R`` of them turned.

Numerics.  With ``exact`` every rounding step of the spelled form is kept: ``rope`` is bit for bit what eager PyTorch gives,
and in ``norm_rope`` only the order of summation in the mean can differ.  Without it everything up to the result stays in fp32,
as in the code that Inductor makes of the same chain.
"""

from __future__ import annotations

import helion.language as hl
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.case import Case
from helion_compile.kernel import kernel
from helion_compile.kernels.dependent import let_next_begin, wait_for_previous
from helion_compile.kernels.rounding import rounded
from helion_compile.kernels.rows import dtype_of

__all__ = ["norm_rope", "rope"]

PAIRS = ("halves", "neighbours")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_MULTIPLY = "mul.rn.f32 $0, $1, $2;"
MAX_TOKEN = 65536  # elements of all heads of a token: they are held in registers


def turned_pair(
    x1: torch.Tensor,
    x2: torch.Tensor,
    cos1: torch.Tensor,
    sin1: torch.Tensor,
    cos2: torch.Tensor,
    sin2: torch.Tensor,
    dtype: torch.dtype,
    stepwise: bool,
    exact: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """In a kernel: (x1 cos1 - x2 sin1, x2 cos2 + x1 sin2), all fp32; tables broadcast over the heads."""
    first = _product(x1, cos1, dtype, stepwise, exact) - _product(x2, sin1, dtype, stepwise, exact)
    second = _product(x2, cos2, dtype, stepwise, exact) + _product(x1, sin2, dtype, stepwise, exact)
    return first, second


def _product(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype, stepwise: bool, exact: bool) -> torch.Tensor:
    if not exact:
        return left * right
    if stepwise:
        return rounded(left * right, dtype)
    return multiplied(left, right)


def multiplied(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left * right`` as an instruction of its own: a * b + c would become one multiply-add, which rounds once, not twice."""
    return hl.inline_asm_elementwise(_MULTIPLY, "=f,f,f", [left, right], dtype=torch.float32, is_pure=True, pack=1)


def turned_reference(x, cos1, sin1, cos2, sin2, pairs, stepwise, exact):
    """``x`` [B, S, H, D], its first elements turned, in plain torch: fp32, or ``x``'s dtype if stepwise and exact."""
    wide = x if exact and stepwise else x.float()
    cos1, sin1, cos2, sin2 = (table.unsqueeze(2).to(wide.dtype) for table in (cos1, sin1, cos2, sin2))
    turned = 2 * cos1.size(-1)
    head, rest = wide[..., :turned], wide[..., turned:]
    x1, x2 = (head[..., 0::2], head[..., 1::2]) if pairs == "neighbours" else head.chunk(2, -1)
    both = x1 * cos1 - x2 * sin1, x2 * cos2 + x1 * sin2
    head = torch.stack(both, -1).flatten(-2) if pairs == "neighbours" else torch.cat(both, -1)
    return torch.cat((head, rest), -1)


def _laid_out(out, heads_first):
    return (out.transpose(1, 2) if heads_first else out).contiguous()


def _refuse_heads(x, tables, pairs):
    if pairs not in PAIRS:
        return f"pairs is {pairs!r}; it is one of {PAIRS}"
    if x.dim() != 4:
        return f"x has {x.dim()} dimensions; it takes [B, S, H, D]"
    if x.stride(-1) != 1:
        return f"the last dimension of x is not contiguous (strides {tuple(x.stride())}); call .contiguous() on it before"
    for name, tensor in (("x", x), *tables.items()):
        if tensor.dtype not in DTYPES:
            return f"{name} is {tensor.dtype}; it takes {', '.join(map(str, DTYPES))}"
    cos1 = tables["cos1"]
    if any(isinstance(size, torch.SymInt) for size in (x.size(2), x.size(3), cos1.size(-1))):
        return "the number of heads or the size of a head is symbolic; mark it static"
    turned = 2 * cos1.size(-1)
    if not 0 < turned <= x.size(3):
        found = f"tables of {cos1.size(-1)} numbers turn {turned} elements, and a head has {x.size(3)}"
        return f"{found}; it takes tables for a head or less"
    for name, table in tables.items():
        if table.dim() != 3 or table.dtype != cos1.dtype or table.size(-1) != cos1.size(-1):
            found = f"{name} is {table.dtype} {tuple(table.shape)}, cos1 {cos1.dtype} {tuple(cos1.shape)}"
            return f"{found}; they are alike, [B, S, R / 2]"
    if x.size(2) * x.size(3) > MAX_TOKEN:
        return f"a token has {x.size(2) * x.size(3)} elements in its heads; it takes at most {MAX_TOKEN}"
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1
    if statically_known_true(reach >= 2**31) and statically_known_true(x.numel() < 2**31):
        return (
            f"x reaches {reach} elements into memory with {x.numel()} of its own (strides {tuple(x.stride())}), and Helion "
            f"chooses 32-bit offsets by the latter; call .contiguous() on it before"
        )
    return None


def _case_of(x, cos1, pairs):
    tokens = x.size(0) * x.size(1)
    return Case(
        head_dim=x.size(3), num_heads=x.size(2), num_tokens=tokens, dtype=x.dtype, turned=2 * cos1.size(-1), pairs=pairs
    )


def _default_config(case):
    """One token a program, all its heads in registers, and as many warps as give each thread about 16 elements."""
    elements = int(case.facts.get("head_dim", 128)) * int(case.facts.get("num_heads", 32))
    warps = 1
    while warps < 16 and warps * 32 * 16 < elements:
        warps *= 2
    return {"block_sizes": [1, 1], "num_warps": warps}


def _made_for(case, device):
    dtype, tokens = dtype_of(case), case["num_tokens"]
    angles = torch.randn(1, tokens, case["turned"] // 2, device=device)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    x = torch.randn(1, tokens, case["num_heads"], case["head_dim"], device=device).to(dtype)
    return x, cos, sin, cos.clone(), sin.clone()  # four tensors, as the halves of a table have four addresses


def _shapes(layer):
    """The queries' heads and the keys'."""
    if layer.head_dim is None or layer.key_value_heads is None:
        return []
    base = {"head_dim": layer.head_dim, "turned": layer.head_dim, "pairs": "halves"}
    return [{**base, "num_heads": count} for count in (layer.attention_size // layer.head_dim, layer.key_value_heads)]


def _rope_reference(x, cos1, sin1, cos2, sin2, pairs, stepwise, heads_first, exact):
    out = turned_reference(x, cos1, sin1, cos2, sin2, pairs, stepwise, exact)
    return _laid_out(out.to(x.dtype), heads_first)


def _rope_case(x, cos1, sin1, cos2, sin2, pairs, *_):
    return _case_of(x, cos1, pairs)


def _rope_refuse(x, cos1, sin1, cos2, sin2, pairs, *_):
    return _refuse_heads(x, {"cos1": cos1, "sin1": sin1, "cos2": cos2, "sin2": sin2}, pairs)


def _rope_inputs(case, device):
    return *_made_for(case, device), case["pairs"], True, False, False


@kernel(
    reference=_rope_reference,
    case=_rope_case,
    refuse=_rope_refuse,
    default_config=_default_config,
    inputs=_rope_inputs,
    shapes=_shapes,
)
def rope(
    x: torch.Tensor,
    cos1: torch.Tensor,
    sin1: torch.Tensor,
    cos2: torch.Tensor,
    sin2: torch.Tensor,
    pairs: hl.constexpr,
    stepwise: hl.constexpr,
    heads_first: hl.constexpr,
    exact: hl.constexpr,
) -> torch.Tensor:
    """Turn the first R elements of each head in pairs: ``(x1 cos1 - x2 sin1, x2 cos2 + x1 sin2)``; the rest is copied.

    Args:
        x: [B, S, H, D] bf16, fp16 or fp32 of any strides with a contiguous last dimension.
        cos1, sin1, cos2, sin2: [B, S, R / 2] of any strides, for the first and the second of each pair; a stride of 0 repeats
            what several sequences share.
        pairs: "halves" (i and i + R / 2) or "neighbours" (2i and 2i + 1).
        stepwise: whether the model rounds both products to ``x``'s dtype before the sum.
        heads_first: return [B, H, S, D] instead of [B, S, H, D].
        exact: keep every rounding step of the model (see the module's text).

    Returns:
        [B, S, H, D] or [B, H, S, D] of ``x``'s dtype, contiguous.
    """
    b, s, h, d = x.size()
    h = hl.specialize(h)
    d = hl.specialize(d)
    half = hl.specialize(cos1.size(-1))
    result = torch.empty([b, h, s, d] if heads_first else [b, s, h, d], dtype=x.dtype, device=x.device)
    out = result.transpose(1, 2) if heads_first else result
    # Views that a launch plan can follow.  Neighbours are loaded together and split in registers; halves lie apart.
    if pairs == "neighbours":
        both, out_both = x[:, :, :, : 2 * half].unflatten(-1, (half, 2)), out[:, :, :, : 2 * half].unflatten(-1, (half, 2))
    else:
        left, right = x[:, :, :, :half], x[:, :, :, half : 2 * half]
        out_left, out_right = out[:, :, :, :half], out[:, :, :, half : 2 * half]
    if 2 * half < d:
        rest, out_rest = x[:, :, :, 2 * half :], out[:, :, :, 2 * half :]
    for sequence, token in hl.tile([b, s]):
        let_next_begin()
        wait_for_previous()
        c1 = cos1[sequence, token, :].to(torch.float32)[:, :, None, :]
        c2 = cos2[sequence, token, :].to(torch.float32)[:, :, None, :]
        s1 = sin1[sequence, token, :].to(torch.float32)[:, :, None, :]
        s2 = sin2[sequence, token, :].to(torch.float32)[:, :, None, :]
        if pairs == "neighbours":
            x1, x2 = hl.split(both[sequence, token, :, :, :].to(torch.float32))
            first, second = turned_pair(x1, x2, c1, s1, c2, s2, x.dtype, stepwise, exact)
            out_both[sequence, token, :, :, :] = hl.join(first, second).to(x.dtype)
        else:
            x1 = left[sequence, token, :, :].to(torch.float32)
            x2 = right[sequence, token, :, :].to(torch.float32)
            first, second = turned_pair(x1, x2, c1, s1, c2, s2, x.dtype, stepwise, exact)
            out_left[sequence, token, :, :] = first.to(x.dtype)
            out_right[sequence, token, :, :] = second.to(x.dtype)
        if 2 * half < d:
            out_rest[sequence, token, :, :] = rest[sequence, token, :, :]
    return result


def _norm_rope_reference(
    x,
    weight,
    cos1,
    sin1,
    cos2,
    sin2,
    eps,
    weight_offset,
    cast_then_scale,
    over_heads,
    pairs,
    stepwise,
    heads_first,
    exact,
):
    def maybe_rounded(values):
        return values.to(x.dtype).float() if exact else values

    values = x.float().flatten(2) if over_heads else x.float()
    values = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + eps)
    if weight is not None:
        if cast_then_scale:
            values = maybe_rounded(values)
        values = values * (weight.float() + weight_offset)
    values = maybe_rounded(values.view(x.shape))
    out = turned_reference(values.to(x.dtype) if exact else values, cos1, sin1, cos2, sin2, pairs, stepwise, exact)
    return _laid_out(out.to(x.dtype), heads_first)


def _norm_rope_case(x, weight, cos1, sin1, cos2, sin2, eps, weight_offset, cast_then_scale, over_heads, pairs, *_):
    return _case_of(x, cos1, pairs).replace(over_heads=over_heads)


def _norm_rope_refuse(x, weight, cos1, sin1, cos2, sin2, eps, weight_offset, cast_then_scale, over_heads, pairs, *_):
    if reason := _refuse_heads(x, {"cos1": cos1, "sin1": sin1, "cos2": cos2, "sin2": sin2}, pairs):
        return reason
    if 2 * cos1.size(-1) != x.size(3):
        return f"{2 * cos1.size(-1)} of {x.size(3)} elements are turned; behind a norm the kernel turns all"
    size = x.size(2) * x.size(3) if over_heads else x.size(3)
    if weight is not None and (weight.dtype != x.dtype or tuple(weight.shape) != (size,) or weight.stride(0) != 1):
        return f"weight is {weight.dtype} {tuple(weight.shape)}; it takes {x.dtype} ({size},), contiguous"
    return None


def _norm_rope_inputs(case, device):
    x, *tables = _made_for(case, device)
    over_heads = case["over_heads"]
    size = case["head_dim"] * (case["num_heads"] if over_heads else 1)
    weight = torch.randn(size, device=device).to(x.dtype)
    return x, weight, *tables, 1e-6, 0.0, True, over_heads, case["pairs"], True, False, False


@kernel(
    reference=_norm_rope_reference,
    case=_norm_rope_case,
    refuse=_norm_rope_refuse,
    default_config=_default_config,
    inputs=_norm_rope_inputs,
    shapes=lambda layer: [{**facts, "over_heads": False} for facts in _shapes(layer)],
)
def norm_rope(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    cos1: torch.Tensor,
    sin1: torch.Tensor,
    cos2: torch.Tensor,
    sin2: torch.Tensor,
    eps: float,
    weight_offset: float,
    cast_then_scale: hl.constexpr,
    over_heads: hl.constexpr,
    pairs: hl.constexpr,
    stepwise: hl.constexpr,
    heads_first: hl.constexpr,
    exact: hl.constexpr,
) -> torch.Tensor:
    """``(weight + weight_offset) * x / sqrt(mean(x²) + eps)`` of each head, all of it then turned as by ``rope``.

    Args:
        x: [B, S, H, D] bf16, fp16 or fp32 of any strides with a contiguous last dimension.
        weight: [D], or [H * D] if ``over_heads``, of ``x``'s dtype, or None.
        eps: added to the mean square.
        cast_then_scale: whether the model rounds to ``x``'s dtype before the weight (Llama) or after it (Gemma, Olmo2).
        over_heads: take the mean over all heads of a token together (Olmo2).
        cos1, sin1, cos2, sin2, pairs, stepwise, heads_first: as for ``rope``, with R = D.
        exact: keep every rounding step of the model (see the module's text).

    Returns:
        [B, S, H, D] or [B, H, S, D] of ``x``'s dtype, contiguous.
    """
    b, s, h, d = x.size()
    h = hl.specialize(h)
    d = hl.specialize(d)
    half = hl.specialize(cos1.size(-1))
    result = torch.empty([b, h, s, d] if heads_first else [b, s, h, d], dtype=x.dtype, device=x.device)
    out = result.transpose(1, 2) if heads_first else result
    # The weight in the shape of x, with strides of 0, so that it is loaded in x's layout: see rms_norm_quant.
    if weight is not None:
        weights = weight.as_strided([b, s, h, d], [0, 0, d if over_heads else 0, 1])
    if pairs == "neighbours":
        both, out_both = x.unflatten(-1, (half, 2)), out.unflatten(-1, (half, 2))
        if weight is not None:
            weight_both = weights.unflatten(-1, (half, 2))
    else:
        left, right, out_left, out_right = x[:, :, :, :half], x[:, :, :, half:], out[:, :, :, :half], out[:, :, :, half:]
        if weight is not None:
            weight_left, weight_right = weights[:, :, :, :half], weights[:, :, :, half:]
    for sequence, token in hl.tile([b, s]):
        let_next_begin()
        wait_for_previous()
        if pairs == "neighbours":
            x1, x2 = hl.split(both[sequence, token, :, :, :].to(torch.float32))
            if weight is not None:
                w1, w2 = hl.split(weight_both[sequence, token, :, :, :].to(torch.float32))
        else:
            x1 = left[sequence, token, :, :].to(torch.float32)
            x2 = right[sequence, token, :, :].to(torch.float32)
            if weight is not None:
                w1 = weight_left[sequence, token, :, :].to(torch.float32)
                w2 = weight_right[sequence, token, :, :].to(torch.float32)
        c1 = cos1[sequence, token, :].to(torch.float32)[:, :, None, :]
        c2 = cos2[sequence, token, :].to(torch.float32)[:, :, None, :]
        s1 = sin1[sequence, token, :].to(torch.float32)[:, :, None, :]
        s2 = sin2[sequence, token, :].to(torch.float32)[:, :, None, :]
        squares = torch.sum(x1 * x1 + x2 * x2, dim=-1, keepdim=True)
        if over_heads:
            rstd = torch.rsqrt(torch.sum(squares, dim=2, keepdim=True) * (1.0 / (h * d)) + eps)
        else:
            rstd = torch.rsqrt(squares * (1.0 / d) + eps)
        x1 = x1 * rstd
        x2 = x2 * rstd
        if weight is not None:
            if cast_then_scale and exact:
                x1 = rounded(x1, x.dtype)
                x2 = rounded(x2, x.dtype)
            x1 = x1 * (w1 + weight_offset)
            x2 = x2 * (w2 + weight_offset)
        if exact:
            x1 = rounded(x1, x.dtype)
            x2 = rounded(x2, x.dtype)
        first, second = turned_pair(x1, x2, c1, s1, c2, s2, x.dtype, stepwise, exact)
        if pairs == "neighbours":
            out_both[sequence, token, :, :, :] = hl.join(first, second).to(x.dtype)
        else:
            out_left[sequence, token, :, :] = first.to(x.dtype)
            out_right[sequence, token, :, :] = second.to(x.dtype)
    return result
