# SPDX-License-Identifier: Apache-2.0
"""``norm_quant``: a norm, with or without the residual add before it, and quantisation to 8 bits in one pass.

Letters: ``M`` rows (tokens), ``K`` hidden size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import helion.language as hl
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.configs.case import Case
from helion_compile.helion_kernel import Configs, Tuning, kernel
from helion_compile.kernels.arguments import takes
from helion_compile.kernels.device.normalize import (
    NormAttrs,
    add_residual,
    check_norm,
    new_norm,
    normalize_reference,
    normalize_rows,
)
from helion_compile.kernels.device.pdl import grid_dependency_wait, launch_dependents
from helion_compile.kernels.device.quantize import quantize_rows, quantize_rows_reference
from helion_compile.kernels.device.quantize_attrs import check_quantizer, get_group, new_results
from helion_compile.kernels.device.rows import (
    check_rows,
    check_scalar,
    drop_missing,
    expand_to_rows,
    find_dtype,
    load_tile,
    store_tile,
    view_as_row,
    view_by_group,
)
from helion_compile.kernels.families.quant import get_quantizer_fields, make_quantizer
from helion_compile.kernels.families.row_configs import adapt_row_config, choose_warps

__all__ = ["NormQuantArgs", "check_norm_shapes", "norm_quant"]


class NormQuantArgs(NamedTuple):
    """What ``norm_quant`` takes; see there."""

    x: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    residual: torch.Tensor | None
    scale: torch.Tensor | None
    scale_ub: torch.Tensor | None
    eps: float
    norm: str
    quantizer: str
    exact: bool
    keep_norm: bool


@takes(NormQuantArgs)
def _reference(args):
    x = args.x
    values, total = normalize_reference(x, args.weight, args.bias, args.residual, args.eps, args.norm, args.exact)
    kept = values.to(NormAttrs.parse(args.norm).dtype or x.dtype) if args.keep_norm else None
    quantized = quantize_rows_reference(values, args.scale, args.scale_ub, args.quantizer, args.exact)
    return drop_missing(*quantized, total, kept)


@takes(NormQuantArgs)
def _case(args):
    kind = NormAttrs.parse(args.norm).kind
    return Case(
        hidden_size=args.x.size(-1),
        num_tokens=args.x.size(0),
        dtype=args.x.dtype,
        residual=args.residual is not None,
        **({} if kind == "rms" else {"kind": kind}),
        **get_quantizer_fields(args.scale, args.quantizer),
    )


def check_norm_shapes(args: Any) -> str | None:
    """Why weight [K], bias [K] and residual [M, K] do not belong to x [M, K], as a sentence, or None."""
    x, residual = args.x, args.residual
    for name, vector in (("weight", args.weight), ("bias", args.bias)):
        if vector is not None and statically_known_true(vector.numel() != x.size(-1)):
            return (
                f"{name} is {list(vector.shape)} and x {list(x.shape)}; it takes one element for each of {x.size(-1)} in a row"
            )
    if residual is not None and any(statically_known_true(a != b) for a, b in zip(residual.shape, x.shape, strict=False)):
        return f"residual is {list(residual.shape)} and x {list(x.shape)}; both must have one shape"
    return None


@takes(NormQuantArgs)
def _check_supported(args):
    x, residual = args.x, args.residual
    if residual is not None and residual.dtype != x.dtype:
        return f"residual is {residual.dtype} and x is {x.dtype}; both must have one dtype"
    return (
        check_rows(x=x, weight=args.weight, bias=args.bias, residual=residual)
        or check_norm_shapes(args)
        or check_scalar(scale=args.scale, scale_ub=args.scale_ub)
        or check_norm(args.norm)
        or check_quantizer(args.quantizer, x.size(-1), args.exact)
    )


def _inputs(case, device):
    dtype = find_dtype(case)
    x = torch.randn(case["num_tokens"], case["hidden_size"], device=device).to(dtype)
    weight = torch.randn(case["hidden_size"], device=device).to(dtype)
    layer = case.fields.get("kind") == "layer"
    bias = torch.randn_like(weight) if layer else None
    residual = torch.randn_like(x) if case["residual"] else None
    scale, quantizer = make_quantizer(case, device)
    norm = NormAttrs("layer").text if layer else NormAttrs(cast_then_scale=True).text
    return NormQuantArgs(
        x=x,
        weight=weight,
        bias=bias,
        residual=residual,
        scale=scale,
        scale_ub=None,
        eps=1e-6,
        norm=norm,
        quantizer=quantizer,
        exact=False,
        keep_norm=False,
    )


def _default_config(case):
    return {"block_sizes": [1, 1], "num_warps": choose_warps(case)}


def _shapes(layer):
    return [{"hidden_size": layer.hidden_size, "residual": residual} for residual in (False, True)]


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    configs=Configs(default=_default_config, adapt=adapt_row_config, measured_on=("sm_90",)),
    tuning=Tuning(inputs=_inputs, shapes=_shapes),
)
def norm_quant(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    scale: torch.Tensor | None,
    scale_ub: torch.Tensor | None,
    eps: float,
    norm: hl.constexpr,
    quantizer: hl.constexpr,
    exact: hl.constexpr,
    keep_norm: hl.constexpr,
):
    """``weight * (x + residual) / sqrt(mean((x + residual)²) + eps) + bias``, or the like, quantised; one read, one write.

    Args:
        x, residual: [M, K] bf16, fp16 or fp32, last dimension contiguous; ``residual`` may be None.
        weight, bias: [K] bf16, fp16 or fp32, each or None.
        scale, scale_ub, quantizer: as for ``quant``.
        eps: added to the mean square.
        norm: text of :class:`helion_compile.kernels.device.normalize.NormAttrs`.
        exact: keep every rounding step of the model (see kernels/device/normalize.py and quantize.py).
        keep_norm: return the normalised value too.

    Returns:
        8 bits [M, K]; unless static, fp32 scales [M, 1] or [M, K / group]; with a zero point, int8 [M, 1]; the sum of ``x``
        and ``residual`` [M, K] in ``x``'s dtype, if there is a residual; the normalised value [M, K] in the norm's dtype, if
        ``keep_norm``.
    """
    m, k = x.size()
    k = hl.specialize(k)
    group = get_group(quantizer)
    q, scales, zero = new_results(x, scale, quantizer)
    total = torch.empty([m, k], dtype=x.dtype, device=x.device) if residual is not None else None
    kept = new_norm(x, norm) if keep_norm else None
    x_rows, residual_rows, q_rows = view_by_group(x, group), view_by_group(residual, group), view_by_group(q, group)
    total_rows, kept_rows = view_by_group(total, group), view_by_group(kept, group)
    scale_rows = view_by_group(scales, None if group is None else 1)
    static, bound = expand_to_rows(scale, x_rows), expand_to_rows(scale_ub, x_rows)
    weight_row, bias_row = view_by_group(view_as_row(weight), group), view_by_group(view_as_row(bias), group)
    # A program takes a block of rows and holds the weight in registers meanwhile.  The weight is loaded as a row: as a vector
    # it would be converted through shared memory, for which Triton 3.6 at times picks a layout that gives every thread the
    # whole row, and minutes of ptxas.
    for block in hl.tile(m):
        launch_dependents()
        grid_dependency_wait()
        # Before the first reduction, as loads behind its barrier wait for it (H200, M=8192, K=4096: 28.3 -> 27.3 µs).
        factor = load_tile(weight_row, hl.arange(1))
        shift = load_tile(bias_row, hl.arange(1))
        for rows in hl.tile(block.begin, block.end):
            values = load_tile(x_rows, rows)
            if residual is not None:
                values, total_of_rows = add_residual(values, load_tile(residual_rows, rows), x.dtype, norm, exact)
                store_tile(total_rows, rows, total_of_rows)
            values = normalize_rows(values, factor, shift, eps, x.dtype, norm, exact)
            if keep_norm:
                store_tile(kept_rows, rows, values.to(kept_rows.dtype))
            bits, scale_of_rows, zero_of_rows = quantize_rows(
                values, load_tile(static, rows), load_tile(bound, rows), quantizer, exact
            )
            store_tile(q_rows, rows, bits)
            store_tile(scale_rows, rows, scale_of_rows)
            store_tile(zero, rows, zero_of_rows)
    return drop_missing(q, scales, zero, total, kept)
