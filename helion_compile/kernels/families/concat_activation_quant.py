# SPDX-License-Identifier: Apache-2.0
"""``concat_activation_quant``: rows of which one part is as it is and one an activation's, quantised in one pass.

Parallel blocks of diffusion transformers give attention and the activation beside it to one linear (Flux, HunyuanVideo).

Letters: ``M`` rows (tokens), ``F`` elements of the front part of a row, ``B`` of the part behind it.

Numerics are those of ``activation_quant``; the front part is not rounded at all.
"""

from __future__ import annotations

from typing import NamedTuple

import helion.language as hl
import torch

from helion_compile.configs.case import Case
from helion_compile.helion_kernel import Configs, Tuning, kernel
from helion_compile.kernels.arguments import takes
from helion_compile.kernels.device.activation import activate, activate_reference
from helion_compile.kernels.device.pdl import grid_dependency_wait, launch_dependents
from helion_compile.kernels.device.quantize import quantize_parts, quantize_rows_reference
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs, check_quantizer, new_scales
from helion_compile.kernels.device.rows import (
    check_rows,
    check_scalar,
    drop_missing,
    expand_to_rows,
    find_dtype,
    load_tile,
    store_tile,
)
from helion_compile.kernels.families.activation_quant import ActivationQuantArgs, activation_quant
from helion_compile.kernels.families.quant import get_quantizer_fields, make_quantizer
from helion_compile.kernels.families.row_configs import adapt_row_config

__all__ = ["ConcatActivationQuantArgs", "concat_activation_quant"]


class ConcatActivationQuantArgs(NamedTuple):
    """What ``concat_activation_quant`` takes; see there."""

    front: torch.Tensor
    x: torch.Tensor
    up: torch.Tensor | None
    scale_ub: torch.Tensor | None
    function: str
    rounding: str
    quantizer: str
    exact: bool
    keep: bool


@takes(ConcatActivationQuantArgs)
def _reference(args):
    activated = activate_reference(args.x, args.up, args.function, args.rounding, args.exact)
    values = torch.cat((args.front.float(), activated), -1)
    kept = values.to(args.x.dtype) if args.keep else None
    return drop_missing(*quantize_rows_reference(values, None, args.scale_ub, args.quantizer, args.exact), kept)


@takes(ConcatActivationQuantArgs)
def _case(args):
    return Case(
        hidden_size=args.front.size(-1) + args.x.size(-1),
        front_size=args.front.size(-1),
        num_tokens=args.x.size(0),
        dtype=args.x.dtype,
        gated=args.up is not None,
        **get_quantizer_fields(None, args.quantizer),
    )


@takes(ConcatActivationQuantArgs)
def _check_supported(args):
    front, x, attrs = args.front, args.x, QuantizeAttrs.parse(args.quantizer)
    if front.dtype != x.dtype or front.size(0) != x.size(0):
        return (
            f"front is {front.dtype} {tuple(front.shape)} and x is {x.dtype} {tuple(x.shape)}; both must have one dtype "
            f"and as many rows"
        )
    if attrs.group is not None or attrs.zero_point:
        kind = "a zero point" if attrs.zero_point else f"a scale for each {attrs.group} elements"
        return f"the quantiser has {kind}; the kernel takes one scale for each row and no zero point"
    both = front.size(-1) + x.size(-1)
    return (
        check_rows(front=front)
        or check_scalar(scale_ub=args.scale_ub)
        or activation_quant.check_supported(
            *ActivationQuantArgs(
                x=x,
                up=args.up,
                scale=None,
                scale_ub=None,
                function=args.function,
                rounding=args.rounding,
                quantizer=args.quantizer,
                exact=args.exact,
                keep=args.keep,
            )
        )
        or check_quantizer(args.quantizer, both, args.exact)
    )


def _default_config(case):
    """A row a program, both parts in registers, and as many warps as give each thread about 16 elements; at most 32."""
    warps = 1
    while warps < 32 and warps * 32 * 16 < int(case.fields.get("hidden_size", 4096)):
        warps *= 2
    return {"block_sizes": [1], "num_warps": warps, "reduction_loops": [None]}


def _inputs(case, device):
    dtype, tokens, front = find_dtype(case), case["num_tokens"], case["front_size"]
    x = torch.randn(tokens, case["hidden_size"] - front, device=device).to(dtype)
    _, quantizer = make_quantizer(case, device)
    return ConcatActivationQuantArgs(
        front=torch.randn(tokens, front, device=device).to(dtype),
        x=x,
        up=torch.randn_like(x) if case["gated"] else None,
        scale_ub=None,
        function="silu" if case["gated"] else "gelu_tanh",
        rounding="function" if case["gated"] else "result",
        quantizer=quantizer,
        exact=False,
        keep=False,
    )


def _shape_of(front, back, gated):
    return {"hidden_size": front + back, "front_size": front, "gated": gated}


def _split_rows(rows, first):
    """[M, F + B] as [M, F] and [M, B], views both; None as two of them."""
    return (None, None) if rows is None else (rows[:, :first], rows[:, first:])


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    configs=Configs(default=_default_config, adapt=adapt_row_config),
    tuning=Tuning(
        inputs=_inputs,
        shapes=lambda layer: [_shape_of(layer.hidden_size, layer.intermediate_size, False)],
        # Flux, Chroma and HunyuanVideo; Flux 2
        usual=[_shape_of(3072, 12288, False), _shape_of(6144, 18432, True)],
        tokens=(1024, 2048, 4096, 4608, 8192, 16384, 32760),
    ),
)
def concat_activation_quant(
    front: torch.Tensor,
    x: torch.Tensor,
    up: torch.Tensor | None,
    scale_ub: torch.Tensor | None,
    function: hl.constexpr,
    rounding: hl.constexpr,
    quantizer: hl.constexpr,
    exact: hl.constexpr,
    keep: hl.constexpr,
):
    """``cat([front, f(x)])`` or ``cat([front, f(x) * up])``, quantised with one scale a row; each input is read once.

    Args:
        front: [M, F] of ``x``'s dtype.
        x, up, function, rounding: as for ``activation_quant``, [M, B].
        scale_ub, quantizer: as for ``quant``, without groups and zero points.
        exact: keep every rounding step of the model.
        keep: return the concatenation too.

    Returns:
        8 bits [M, F + B]; fp32 scales [M, 1]; the concatenation [M, F + B] in ``x``'s dtype, if ``keep``.
    """
    m, width = x.size()
    width = hl.specialize(width)
    first = hl.specialize(front.size(1))
    q = torch.empty([m, first + width], dtype=QuantizeAttrs.parse(quantizer).dtype, device=x.device)
    kept = torch.empty([m, first + width], dtype=x.dtype, device=x.device) if keep else None
    scales = new_scales(x, quantizer)
    q_front, q_back = _split_rows(q, first)
    kept_front, kept_back = _split_rows(kept, first)
    bound = expand_to_rows(scale_ub, x)
    for tile in hl.tile(m):
        launch_dependents()
        grid_dependency_wait()
        copied = load_tile(front, tile)
        values = activate(load_tile(x, tile), load_tile(up, tile), x.dtype, function, rounding, exact)
        if keep:
            store_tile(kept_front, tile, copied.to(x.dtype))
            store_tile(kept_back, tile, values.to(x.dtype))
        bits, bits_of_back, scale_of_tile = quantize_parts(copied, values, load_tile(bound, tile), quantizer, exact)
        store_tile(q_front, tile, bits)
        store_tile(q_back, tile, bits_of_back)
        store_tile(scales, tile, scale_of_tile)
    return drop_missing(q, scales, kept)
