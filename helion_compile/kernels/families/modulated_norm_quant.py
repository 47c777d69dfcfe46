# SPDX-License-Identifier: Apache-2.0
"""``modulated_norm_quant``: a norm, its scale and shift for each batch, and quantisation to 8 bits in one pass.

Adaptive norms of diffusion transformers, with or without the gated residual add before them.

Letters: ``M`` rows (tokens), ``B`` batches, ``K`` hidden size.
"""

from __future__ import annotations

from typing import NamedTuple

import helion.language as hl
import torch

from helion_compile.configs.case import Case
from helion_compile.helion_kernel import Configs, Tuning, kernel
from helion_compile.kernels.arguments import takes
from helion_compile.kernels.device.modulate import (
    ModulateAttrs,
    add_gated,
    check_batches,
    check_modulation,
    expand_to_batches,
    load_batch,
    modulate_reference,
    modulate_rows,
    new_modulated,
    store_batch,
    view_by_batch,
)
from helion_compile.kernels.device.normalize import (
    NormAttrs,
    add_residual,
    check_norm,
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
    find_dtype,
    load_tile,
    view_as_row,
    view_by_group,
)
from helion_compile.kernels.families.norm_quant import check_norm_shapes
from helion_compile.kernels.families.quant import get_quantizer_fields, make_quantizer
from helion_compile.kernels.families.row_configs import adapt_row_config, choose_warps

__all__ = ["ModulatedNormQuantArgs", "modulated_norm_quant"]

PROGRAMS = 528  # about four for each of the 132 processors of an H100 or H200


class ModulatedNormQuantArgs(NamedTuple):
    """What ``modulated_norm_quant`` takes; see there."""

    x: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    residual: torch.Tensor | None
    gate: torch.Tensor | None
    mod_scale: torch.Tensor
    mod_shift: torch.Tensor | None
    scale: torch.Tensor | None
    scale_ub: torch.Tensor | None
    eps: float
    norm: str
    modulation: str
    quantizer: str
    exact: bool
    keep: bool


def _by_batch(rows: torch.Tensor | None, batches: int) -> torch.Tensor | None:
    return None if rows is None else rows.unflatten(0, (batches, -1))


@takes(ModulatedNormQuantArgs)
def _reference(args):
    x, batches = args.x, args.mod_scale.size(0)
    gate, scale, shift = (_by_batch(row, batches) for row in (args.gate, args.mod_scale, args.mod_shift))
    values, total = normalize_reference(
        _by_batch(x, batches), args.weight, args.bias, _by_batch(args.residual, batches), args.eps, args.norm, args.exact, gate
    )
    dtype = NormAttrs.parse(args.norm).dtype or x.dtype
    values = modulate_reference(values, scale, shift, dtype, args.modulation, args.exact).flatten(0, 1)
    kept = values.to(ModulateAttrs.parse(args.modulation).dtype or dtype) if args.keep else None
    quantized = quantize_rows_reference(values, args.scale, args.scale_ub, args.quantizer, args.exact)
    return drop_missing(*quantized, None if total is None else total.flatten(0, 1), kept)


@takes(ModulatedNormQuantArgs)
def _case(args):
    return Case(
        hidden_size=args.x.size(-1),
        num_tokens=args.x.size(0),
        dtype=args.x.dtype,
        kind=NormAttrs.parse(args.norm).kind,
        residual=args.residual is not None,
        **get_quantizer_fields(args.scale, args.quantizer),
    )


@takes(ModulatedNormQuantArgs)
def _check_supported(args):
    x, residual = args.x, args.residual
    if residual is not None and residual.dtype != x.dtype:
        return f"residual is {residual.dtype} and x is {x.dtype}; both must have one dtype"
    if args.gate is not None and residual is None:
        return "there is a gate and no residual to which what it multiplies is added"
    return (
        check_rows(x=x, weight=args.weight, bias=args.bias, residual=residual)
        or check_norm_shapes(args)
        or check_rows(gate=args.gate, mod_scale=args.mod_scale, mod_shift=args.mod_shift)
        or check_batches(x, mod_scale=args.mod_scale, mod_shift=args.mod_shift, gate=args.gate)
        or check_scalar(scale=args.scale, scale_ub=args.scale_ub)
        or check_norm(args.norm)
        or check_modulation(args.modulation)
        or check_quantizer(args.quantizer, x.size(-1), args.exact)
    )


def _inputs(case, device):
    dtype = find_dtype(case)
    x = torch.randn(case["num_tokens"], case["hidden_size"], device=device).to(dtype)
    scale, shift, gate = torch.randn(1, 3 * case["hidden_size"], device=device).to(dtype).chunk(3, -1)
    residual = torch.randn_like(x) if case["residual"] else None
    static, quantizer = make_quantizer(case, device)
    return ModulatedNormQuantArgs(
        x=x,
        weight=None,
        bias=None,
        residual=residual,
        gate=gate if case["residual"] else None,
        mod_scale=scale,
        mod_shift=shift,
        scale=static,
        scale_ub=None,
        eps=1e-6,
        norm=NormAttrs(case.fields.get("kind", "layer")).text,
        modulation=ModulateAttrs("every_step").text,
        quantizer=quantizer,
        exact=False,
        keep=False,
    )


def _default_config(case):
    """As many rows a program as leave some programs for each processor: scale and shift are loaded once for all of them.

    The warps give each thread 64 elements of each.  With 16 a thread it took 1.3 to 1.5 times as long (H200, K=3072 and 5120).
    """
    rows, tokens = 1, int(case.fields.get("num_tokens", 1))
    while rows < 16 and tokens >= 2 * rows * PROGRAMS:
        rows *= 2
    return {"block_sizes": [rows, 1], "num_warps": max(choose_warps(case) // 4, 1)}


def _shapes_of(hidden_size):
    """The norm at a block's start, and the one behind the gated sum."""
    return [{"hidden_size": hidden_size, "kind": "layer", "residual": residual} for residual in (False, True)]


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    configs=Configs(default=_default_config, adapt=adapt_row_config),
    tuning=Tuning(
        inputs=_inputs,
        shapes=lambda layer: _shapes_of(layer.hidden_size),
        # SD3 medium; PixArt and LTX; Flux, Qwen-Image and HunyuanVideo; Wan 14B
        usual=[fields for width in (1536, 2048, 3072, 5120) for fields in _shapes_of(width)],
        tokens=(1024, 2048, 4096, 4608, 8192, 16384, 32760),
    ),
)
def modulated_norm_quant(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    gate: torch.Tensor | None,
    mod_scale: torch.Tensor,
    mod_shift: torch.Tensor | None,
    scale: torch.Tensor | None,
    scale_ub: torch.Tensor | None,
    eps: float,
    norm: hl.constexpr,
    modulation: hl.constexpr,
    quantizer: hl.constexpr,
    exact: hl.constexpr,
    keep: hl.constexpr,
):
    """``norm(x * gate + residual) * (mod_scale + 1) + mod_shift``, or the like, quantised; one read, one write.

    Args:
        x, residual: [M, K] bf16, fp16 or fp32, last dimension contiguous; ``residual`` may be None.
        weight, bias: of the norm, [K] bf16, fp16 or fp32, each or None.
        gate, mod_scale, mod_shift: [B, K] bf16, fp16 or fp32, one row for each M / B rows of ``x``.  ``gate`` may be None,
            also with a residual, and so may ``mod_shift``.
        scale, scale_ub, quantizer: as for ``quant``.
        eps: added to the mean square.
        norm: text of :class:`helion_compile.kernels.device.normalize.NormAttrs`.
        modulation: text of :class:`helion_compile.kernels.device.modulate.ModulateAttrs`.
        exact: keep every rounding step of the model (see kernels/device/normalize.py, modulate.py and quantize.py).
        keep: return the modulated value too.

    Returns:
        8 bits [M, K]; unless static, fp32 scales [M, 1] or [M, K / group]; with a zero point, int8 [M, 1]; the gated sum
        [M, K] in ``x``'s dtype, if there is a residual; the modulated value [M, K] in its dtype, if ``keep``.
    """
    m, k = x.size()
    k = hl.specialize(k)
    batches = mod_scale.size(0)
    group = get_group(quantizer)
    norm_dtype = NormAttrs.parse(norm).dtype or x.dtype
    q, scales, zero = new_results(x, scale, quantizer)
    total = torch.empty([m, k], dtype=x.dtype, device=x.device) if residual is not None else None
    kept = new_modulated(x, norm_dtype, modulation) if keep else None
    x_rows, residual_rows = view_by_batch(x, batches, group), view_by_batch(residual, batches, group)
    q_rows, total_rows, kept_rows = (
        view_by_batch(q, batches, group),
        view_by_batch(total, batches, group),
        view_by_batch(kept, batches, group),
    )
    scale_rows, zero_rows = view_by_batch(scales, batches, None if group is None else 1), view_by_batch(zero, batches, None)
    static, bound = expand_to_batches(scale, x_rows), expand_to_batches(scale_ub, x_rows)
    weight_row, bias_row = view_by_group(view_as_row(weight), group), view_by_group(view_as_row(bias), group)
    gate_row, mod_scale_row, mod_shift_row = (
        view_by_batch(gate, batches, group),
        view_by_batch(mod_scale, batches, group),
        view_by_batch(mod_shift, batches, group),
    )
    # A program takes a block of rows of one batch and holds what they share in registers meanwhile.
    for batch, block in hl.tile([batches, m // batches], block_size=[1, None]):
        launch_dependents()
        grid_dependency_wait()
        # Before the first reduction, as loads behind its barrier wait for it.
        factor, shift = load_tile(weight_row, hl.arange(1)), load_tile(bias_row, hl.arange(1))
        gate_of_batch = load_batch(gate_row, batch.begin, hl.arange(1))
        scale_of_batch = load_batch(mod_scale_row, batch.begin, hl.arange(1))
        shift_of_batch = load_batch(mod_shift_row, batch.begin, hl.arange(1))
        for rows in hl.tile(block.begin, block.end):
            values = load_batch(x_rows, batch.begin, rows)
            if gate is not None:
                values, total_of_rows = add_gated(
                    values,
                    gate_of_batch,
                    load_batch(residual_rows, batch.begin, rows),
                    x.dtype,
                    gate.dtype == x.dtype,
                    exact,
                )
                store_batch(total_rows, batch.begin, rows, total_of_rows)
            elif residual is not None:
                values, total_of_rows = add_residual(
                    values, load_batch(residual_rows, batch.begin, rows), x.dtype, norm, exact
                )
                store_batch(total_rows, batch.begin, rows, total_of_rows)
            values = normalize_rows(values, factor, shift, eps, x.dtype, norm, exact)
            values = modulate_rows(values, scale_of_batch, shift_of_batch, norm_dtype, modulation, exact)
            if keep:
                store_batch(kept_rows, batch.begin, rows, values.to(kept_rows.dtype))
            bits, scale_of_rows, zero_of_rows = quantize_rows(
                values,
                load_batch(static, batch.begin, rows),
                load_batch(bound, batch.begin, rows),
                quantizer,
                exact,
            )
            store_batch(q_rows, batch.begin, rows, bits)
            store_batch(scale_rows, batch.begin, rows, scale_of_rows)
            store_batch(zero_rows, batch.begin, rows, zero_of_rows)
    return drop_missing(q, scales, zero, total, kept)
