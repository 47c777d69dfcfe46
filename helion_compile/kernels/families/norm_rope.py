# SPDX-License-Identifier: Apache-2.0
"""``norm_rope``: RMSNorm of each head, or of all heads of a token, and rotary position embedding, in one contiguous pass.

Letters: ``B`` sequences, ``S`` tokens of each, ``H`` heads, ``D`` elements of a head, ``R`` of them rotated.

Numerics.  With ``exact`` every rounding step of the eager model is kept; only the order of summation in the mean can
differ.  Without it everything up to the result stays in fp32, as in the code that Inductor makes of the same chain.
"""

from __future__ import annotations

from typing import NamedTuple

import helion.language as hl
import torch

from helion_compile.helion_kernel import Configs, Tuning, kernel
from helion_compile.kernels.arguments import takes
from helion_compile.kernels.device.pdl import grid_dependency_wait, launch_dependents
from helion_compile.kernels.device.rope import (
    check_heads,
    default_config,
    lay_out,
    make_case,
    make_inputs,
    rotate_pair,
    rotate_reference,
    shapes,
)
from helion_compile.kernels.device.rounding import round_to

__all__ = ["NormRopeArgs", "norm_rope"]


class NormRopeArgs(NamedTuple):
    """What ``norm_rope`` takes; see there."""

    x: torch.Tensor
    weight: torch.Tensor | None
    cos1: torch.Tensor
    sin1: torch.Tensor
    cos2: torch.Tensor
    sin2: torch.Tensor
    eps: float
    weight_offset: float
    cast_then_scale: bool
    over_heads: bool
    pairs: str
    stepwise: bool
    heads_first: bool
    exact: bool


@takes(NormRopeArgs)
def _reference(args):
    x = args.x

    def maybe_round(values):
        return values.to(x.dtype).float() if args.exact else values

    values = x.float().flatten(2) if args.over_heads else x.float()
    values = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + args.eps)
    if args.weight is not None:
        if args.cast_then_scale:
            values = maybe_round(values)
        values = values * (args.weight.float() + args.weight_offset)
    values = maybe_round(values.view(x.shape))
    out = rotate_reference(values.to(x.dtype) if args.exact else values, args, args.pairs, args.stepwise, args.exact)
    return lay_out(out.to(x.dtype), args.heads_first)


@takes(NormRopeArgs)
def _case(args):
    return make_case(args.x, args.cos1, args.pairs).replace(over_heads=args.over_heads)


@takes(NormRopeArgs)
def _check_supported(args):
    if reason := check_heads(args):
        return reason
    x, weight = args.x, args.weight
    size = x.size(2) * x.size(3) if args.over_heads else x.size(3)
    if weight is not None and (weight.dtype != x.dtype or tuple(weight.shape) != (size,) or weight.stride(0) != 1):
        return f"weight is {weight.dtype} {tuple(weight.shape)}; it takes {x.dtype} ({size},), contiguous"
    return None


def _inputs(case, device):
    tensors = make_inputs(case, device)
    size = case["head_dim"] * (case["num_heads"] if case["over_heads"] else 1)
    return NormRopeArgs(
        **tensors,
        weight=torch.randn(size, device=device).to(tensors["x"].dtype),
        eps=1e-6,
        weight_offset=0.0,
        cast_then_scale=True,
        over_heads=case["over_heads"],
        pairs=case["pairs"],
        stepwise=True,
        heads_first=False,
        exact=False,
    )


_PAIRED = {"head_dim": 128, "rotary_dim": 128, "pairs": "interleaved"}


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    configs=Configs(default=default_config),
    tuning=Tuning(
        inputs=_inputs,
        shapes=lambda layer: [{**fields, "over_heads": False} for fields in shapes(layer)],
        # Flux and Qwen-Image; Wan 1.3B and 14B
        usual=[{**_PAIRED, "num_heads": heads, "over_heads": over} for heads, over in ((24, False), (12, True), (40, True))],
        tokens=(1024, 2048, 4096, 4608, 8192, 16384, 32760),
    ),
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
    """``(weight + weight_offset) * x / sqrt(mean(x²) + eps)`` of each head, then rotated as by ``rope``.

    Args:
        x: [B, S, H, D] bf16, fp16 or fp32 of any strides with a contiguous last dimension.
        weight: [D], or [H * D] if ``over_heads``, of ``x``'s dtype, or None.
        eps: added to the mean square.
        cast_then_scale: whether the model rounds to ``x``'s dtype before the weight (Llama) or after it (Gemma, Olmo2).
        over_heads: take the mean over all heads of a token together (Olmo2).
        cos1, sin1, cos2, sin2, pairs, stepwise, heads_first: as for ``rope``.
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
    # The weight in the shape of x, with strides of 0, so that it is loaded in x's layout: see norm_quant.
    if weight is not None:
        weights = weight.as_strided([b, s, h, d], [0, 0, d if over_heads else 0, 1])
    if pairs == "interleaved":
        both, out_both = x[:, :, :, : 2 * half].unflatten(-1, (half, 2)), out[:, :, :, : 2 * half].unflatten(-1, (half, 2))
        if weight is not None:
            weight_both = weights[:, :, :, : 2 * half].unflatten(-1, (half, 2))
    else:
        left, right = x[:, :, :, :half], x[:, :, :, half : 2 * half]
        out_left, out_right = out[:, :, :, :half], out[:, :, :, half : 2 * half]
        if weight is not None:
            weight_left, weight_right = weights[:, :, :, :half], weights[:, :, :, half : 2 * half]
    if 2 * half < d:
        rest, out_rest = x[:, :, :, 2 * half :], out[:, :, :, 2 * half :]
        if weight is not None:
            weight_rest = weights[:, :, :, 2 * half :]
    for sequence, token in hl.tile([b, s]):
        launch_dependents()
        grid_dependency_wait()
        if pairs == "interleaved":
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
        if 2 * half < d:
            x3 = rest[sequence, token, :, :].to(torch.float32)
            squares = squares + torch.sum(x3 * x3, dim=-1, keepdim=True)
            if weight is not None:
                w3 = weight_rest[sequence, token, :, :].to(torch.float32)
        if over_heads:
            rstd = torch.rsqrt(torch.sum(squares, dim=2, keepdim=True) * (1.0 / (h * d)) + eps)
        else:
            rstd = torch.rsqrt(squares * (1.0 / d) + eps)
        x1 = x1 * rstd
        x2 = x2 * rstd
        if weight is not None:
            if cast_then_scale and exact:
                x1 = round_to(x1, x.dtype)
                x2 = round_to(x2, x.dtype)
            x1 = x1 * (w1 + weight_offset)
            x2 = x2 * (w2 + weight_offset)
        if exact:
            x1 = round_to(x1, x.dtype)
            x2 = round_to(x2, x.dtype)
        if 2 * half < d:
            x3 = x3 * rstd
            if weight is not None:
                if cast_then_scale and exact:
                    x3 = round_to(x3, x.dtype)
                x3 = x3 * (w3 + weight_offset)
            out_rest[sequence, token, :, :] = x3.to(x.dtype)
        first, second = rotate_pair(x1, x2, c1, s1, c2, s2, x.dtype, stepwise, exact)
        if pairs == "interleaved":
            out_both[sequence, token, :, :, :] = hl.join(first, second).to(x.dtype)
        else:
            out_left[sequence, token, :, :] = first.to(x.dtype)
            out_right[sequence, token, :, :] = second.to(x.dtype)
    return result
