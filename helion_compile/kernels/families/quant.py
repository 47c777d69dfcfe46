# SPDX-License-Identifier: Apache-2.0
"""``quant``: quantisation to 8 bits, one read and one write.

Letters: ``M`` rows (tokens), ``K`` elements of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import helion.language as hl
import torch

from helion_compile.configs.case import Case
from helion_compile.helion_kernel import Configs, Tuning, kernel
from helion_compile.kernels.arguments import takes
from helion_compile.kernels.device.pdl import grid_dependency_wait, launch_dependents
from helion_compile.kernels.device.quantize import quantize_rows, quantize_rows_reference
from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs, check_quantizer, get_group, new_results
from helion_compile.kernels.device.rows import (
    check_rows,
    check_scalar,
    drop_missing,
    expand_to_rows,
    find_dtype,
    load_tile,
    store_tile,
    view_by_group,
)
from helion_compile.kernels.families.row_configs import adapt_row_config, choose_quantizer_config, choose_warps

__all__ = ["QuantArgs", "get_quantizer_fields", "make_quantizer", "quant"]


class QuantArgs(NamedTuple):
    """What ``quant`` takes; see there."""

    x: torch.Tensor
    scale: torch.Tensor | None
    scale_ub: torch.Tensor | None
    quantizer: str
    exact: bool


def get_quantizer_fields(scale: torch.Tensor | None, quantizer: str) -> dict[str, object]:
    """What of a quantiser a config depends on: see docs/tuning.md.  Empty for dynamic scales a token."""
    fields: dict[str, object] = {}
    if scale is not None:
        fields["static"] = True
    if group := QuantizeAttrs.parse(quantizer).group:
        fields["group"] = group
    return fields


def make_quantizer(case: Case, device: torch.device) -> tuple[torch.Tensor | None, str]:
    """A static scale, if the case has one, and a quantiser of the case: torchao's to fp8."""
    scale = torch.full((1,), 0.01, device=device) if case.fields.get("static") else None
    group = case.fields.get("group")
    return scale, QuantizeAttrs(
        torch.float8_e4m3fn, clamp=(-448.0, 448.0), scale_dtype=torch.bfloat16, group=None if group is None else int(group)
    ).text


@takes(QuantArgs)
def _reference(args):
    return drop_missing(*quantize_rows_reference(args.x.float(), args.scale, args.scale_ub, args.quantizer, args.exact))


@takes(QuantArgs)
def _case(args):
    x, fields = args.x, get_quantizer_fields(args.scale, args.quantizer)
    return Case(hidden_size=x.size(-1), num_tokens=x.size(0), dtype=x.dtype, **fields)


@takes(QuantArgs)
def _check_supported(args):
    return (
        check_rows(x=args.x)
        or check_scalar(scale=args.scale, scale_ub=args.scale_ub)
        or check_quantizer(args.quantizer, args.x.size(-1), args.exact)
    )


def _inputs(case, device):
    x = torch.randn(case["num_tokens"], case["hidden_size"], device=device).to(find_dtype(case))
    scale, quantizer = make_quantizer(case, device)
    return QuantArgs(x=x, scale=scale, scale_ub=None, quantizer=quantizer, exact=False)


def _default_config(case):
    return choose_quantizer_config(case, choose_warps(case))


def _shapes(layer):
    """Inputs of the linears that no norm precedes, and of the others where the norm has to stay."""
    return [{"hidden_size": k} for k in (layer.attention_size, layer.intermediate_size, layer.hidden_size)]


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    configs=Configs(default=_default_config, adapt=adapt_row_config, measured_on=("sm_90",)),
    tuning=Tuning(inputs=_inputs, shapes=_shapes),
)
def quant(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    scale_ub: torch.Tensor | None,
    quantizer: hl.constexpr,
    exact: hl.constexpr,
):
    """Quantise ``x`` to 8 bits, reading it once.

    Args:
        x: [M, K] bf16, fp16 or fp32, last dimension contiguous.
        scale: fp32 of one element, a static scale for all; None for one taken from each row or group.
        scale_ub: fp32 of one element, upper bound of the largest magnitudes, or None.
        quantizer: text of :class:`helion_compile.kernels.device.quantize_attrs.QuantizeAttrs`.
        exact: keep every rounding step of the model (see kernels/device/quantize.py).

    Returns:
        8 bits [M, K]; unless static, fp32 scales [M, 1] or [M, K / group]; then, with a zero point, int8 [M, 1].
    """
    m, k = x.size()
    k = hl.specialize(k)
    group = get_group(quantizer)
    q, scales, zero = new_results(x, scale, quantizer)
    x_rows, q_rows = view_by_group(x, group), view_by_group(q, group)
    scale_rows = view_by_group(scales, None if group is None else 1)
    static, bound = expand_to_rows(scale, x_rows), expand_to_rows(scale_ub, x_rows)
    # A scale of its own for each row needs the row whole; a static one or one a group leaves its parts to other programs.
    for tile in hl.tile([m] if scale is None and group is None else [m, x_rows.size(1)]):
        launch_dependents()
        grid_dependency_wait()
        values = load_tile(x_rows, tile)
        bits, scale_of_tile, zero_of_tile = quantize_rows(
            values, load_tile(static, tile), load_tile(bound, tile), quantizer, exact
        )
        store_tile(q_rows, tile, bits)
        store_tile(scale_rows, tile, scale_of_tile)
        store_tile(zero, tile, zero_of_tile)
    return drop_missing(q, scales, zero)
