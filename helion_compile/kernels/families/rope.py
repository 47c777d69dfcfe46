# SPDX-License-Identifier: Apache-2.0
"""``rope``: rotary position embedding in one contiguous pass.

Letters: ``B`` sequences, ``S`` tokens of each, ``H`` heads, ``D`` elements of a head, ``R`` of them rotated.

Numerics.  With ``exact`` every rounding step of the eager model is kept, bit for bit what eager PyTorch gives.
Without it everything up to the result stays in fp32, as in the code that Inductor makes of the same chain.
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

__all__ = ["RopeArgs", "rope"]


class RopeArgs(NamedTuple):
    """What ``rope`` takes; see there."""

    x: torch.Tensor
    cos1: torch.Tensor
    sin1: torch.Tensor
    cos2: torch.Tensor
    sin2: torch.Tensor
    pairs: str
    stepwise: bool
    heads_first: bool
    exact: bool


@takes(RopeArgs)
def _reference(args):
    out = rotate_reference(args.x, args, args.pairs, args.stepwise, args.exact)
    return lay_out(out.to(args.x.dtype), args.heads_first)


@takes(RopeArgs)
def _case(args):
    return make_case(args.x, args.cos1, args.pairs)


@takes(RopeArgs)
def _check_supported(args):
    return check_heads(args)


def _inputs(case, device):
    return RopeArgs(**make_inputs(case, device), pairs=case["pairs"], stepwise=True, heads_first=False, exact=False)


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    configs=Configs(default=default_config),
    tuning=Tuning(inputs=_inputs, shapes=shapes),
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
    """Rotate the first R elements of each head in pairs: ``(x1 cos1 - x2 sin1, x2 cos2 + x1 sin2)``; the rest is copied.

    Args:
        x: [B, S, H, D] bf16, fp16 or fp32 of any strides with a contiguous last dimension.
        cos1, sin1, cos2, sin2: [B, S, R / 2] of any strides, for the first and the second of each pair; a stride of 0 repeats
            what several sequences share.
        pairs: "neox" (i and i + R / 2) or "interleaved" (2i and 2i + 1).
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
    # Views that a launch plan can follow.  Interleaved pairs are loaded together and split in registers; halves lie apart.
    if pairs == "interleaved":
        both, out_both = x[:, :, :, : 2 * half].unflatten(-1, (half, 2)), out[:, :, :, : 2 * half].unflatten(-1, (half, 2))
    else:
        left, right = x[:, :, :, :half], x[:, :, :, half : 2 * half]
        out_left, out_right = out[:, :, :, :half], out[:, :, :, half : 2 * half]
    if 2 * half < d:
        rest, out_rest = x[:, :, :, 2 * half :], out[:, :, :, 2 * half :]
    for sequence, token in hl.tile([b, s]):
        launch_dependents()
        grid_dependency_wait()
        c1 = cos1[sequence, token, :].to(torch.float32)[:, :, None, :]
        c2 = cos2[sequence, token, :].to(torch.float32)[:, :, None, :]
        s1 = sin1[sequence, token, :].to(torch.float32)[:, :, None, :]
        s2 = sin2[sequence, token, :].to(torch.float32)[:, :, None, :]
        if pairs == "interleaved":
            x1, x2 = hl.split(both[sequence, token, :, :, :].to(torch.float32))
            first, second = rotate_pair(x1, x2, c1, s1, c2, s2, x.dtype, stepwise, exact)
            out_both[sequence, token, :, :, :] = hl.join(first, second).to(x.dtype)
        else:
            x1 = left[sequence, token, :, :].to(torch.float32)
            x2 = right[sequence, token, :, :].to(torch.float32)
            first, second = rotate_pair(x1, x2, c1, s1, c2, s2, x.dtype, stepwise, exact)
            out_left[sequence, token, :, :] = first.to(x.dtype)
            out_right[sequence, token, :, :] = second.to(x.dtype)
        if 2 * half < d:
            out_rest[sequence, token, :, :] = rest[sequence, token, :, :]
    return result
