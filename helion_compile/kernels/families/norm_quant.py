"""``norm_quant``: a norm, with or without the residual add before it, and quantisation to 8 bits in one pass.

Letters: ``M`` rows (tokens), ``K`` hidden size.
"""

from __future__ import annotations

import helion.language as hl
import torch

from helion_compile.configs.case import Case
from helion_compile.helion_kernel import Configs, Tuning, kernel
from helion_compile.kernels.device.normalize import (
    Normalization,
    add_residual,
    norm_like,
    normalization,
    normalize_reference,
    normalize_rows,
)
from helion_compile.kernels.device.pdl import grid_dependency_wait, launch_dependents
from helion_compile.kernels.device.quantize import quantize_rows, quantize_rows_reference
from helion_compile.kernels.device.quantize_attrs import Quantization, group_of, new_results
from helion_compile.kernels.device.rows import (
    as_row,
    by_group,
    dtype_of,
    load_rows,
    of_every_row,
    present,
    refuse_number,
    refuse_rows,
    store_rows,
    warps_of,
)
from helion_compile.kernels.families.quant import quantizer_facts, quantizer_of

__all__ = ["norm_quant"]


def _reference(x, weight, bias, residual, scale, scale_ub, eps, norm, quantizer, exact, keep_norm):
    values, total = normalize_reference(x, weight, bias, residual, eps, norm, exact)
    kept = values.to(Normalization(norm).dtype or x.dtype) if keep_norm else None
    return present(*quantize_rows_reference(values, scale, scale_ub, quantizer, exact), total, kept)


def _case(x, weight, bias, residual, scale, scale_ub, eps, norm, quantizer, *_):
    kind = Normalization(norm).kind
    return Case(
        hidden_size=x.size(-1),
        num_tokens=x.size(0),
        dtype=x.dtype,
        residual=residual is not None,
        **({} if kind == "rms" else {"kind": kind}),
        **quantizer_facts(scale, quantizer),
    )


def _check_supported(x, weight, bias, residual, scale, scale_ub, eps, norm, quantizer, exact, keep_norm):
    if residual is not None and residual.dtype != x.dtype:
        return f"residual is {residual.dtype} and x is {x.dtype}; both must have one dtype"
    return (
        refuse_rows(x=x, weight=weight, bias=bias, residual=residual)
        or refuse_number(scale=scale, scale_ub=scale_ub)
        or Normalization(norm).refuse()
        or Quantization(quantizer).refuse(x.size(-1), exact)
    )


def _inputs(case, device):
    dtype = dtype_of(case)
    x = torch.randn(case["num_tokens"], case["hidden_size"], device=device).to(dtype)
    weight = torch.randn(case["hidden_size"], device=device).to(dtype)
    layer = case.fields.get("kind") == "layer"
    bias = torch.randn_like(weight) if layer else None
    residual = torch.randn_like(x) if case["residual"] else None
    scale, quantizer = quantizer_of(case, device)
    norm = normalization("layer") if layer else normalization(cast_then_scale=True)
    return x, weight, bias, residual, scale, None, 1e-6, norm, quantizer, False, False


def _default_config(case):
    return {"block_sizes": [1, 1], "num_warps": warps_of(case)}


def _shapes(layer):
    return [{"hidden_size": layer.hidden_size, "residual": residual} for residual in (False, True)]


@kernel(
    reference=_reference,
    case=_case,
    check_supported=_check_supported,
    configs=Configs(default=_default_config),
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
        norm: text of :func:`helion_compile.kernels.device.normalize.normalization`.
        exact: keep every rounding step of the model (see kernels/normalization.py and quantizing.py).
        keep_norm: return the normalised value too.

    Returns:
        8 bits [M, K]; unless static, fp32 scales [M, 1] or [M, K / group]; with a zero point, int8 [M, 1]; the sum of ``x``
        and ``residual`` [M, K] in ``x``'s dtype, if there is a residual; the normalised value [M, K] in the norm's dtype, if
        ``keep_norm``.
    """
    m, k = x.size()
    k = hl.specialize(k)
    group = group_of(quantizer)
    q, scales, zero = new_results(x, scale, quantizer)
    total = torch.empty([m, k], dtype=x.dtype, device=x.device) if residual is not None else None
    kept = norm_like(x, norm) if keep_norm else None
    x_rows, residual_rows, q_rows = by_group(x, group), by_group(residual, group), by_group(q, group)
    total_rows, kept_rows = by_group(total, group), by_group(kept, group)
    scale_rows = by_group(scales, None if group is None else 1)
    static, bound = of_every_row(scale, x_rows), of_every_row(scale_ub, x_rows)
    weight_row, bias_row = by_group(as_row(weight), group), by_group(as_row(bias), group)
    # A program takes a block of rows and holds the weight in registers meanwhile.  The weight is loaded as a row: as a vector
    # it would be converted through shared memory, for which Triton 3.6 at times picks a layout that gives every thread the
    # whole row, and minutes of ptxas.
    for block in hl.tile(m):
        launch_dependents()
        grid_dependency_wait()
        # Before the first reduction, as loads behind its barrier wait for it (H200, M=8192, K=4096: 28.3 -> 27.3 µs).
        factor = load_rows(weight_row, hl.arange(1))
        shift = load_rows(bias_row, hl.arange(1))
        for rows in hl.tile(block.begin, block.end):
            values = load_rows(x_rows, rows)
            if residual is not None:
                values, total_of_rows = add_residual(values, load_rows(residual_rows, rows), x.dtype, norm, exact)
                store_rows(total_rows, rows, total_of_rows)
            values = normalize_rows(values, factor, shift, eps, x.dtype, norm, exact)
            if keep_norm:
                store_rows(kept_rows, rows, values.to(kept_rows.dtype))
            bits, scale_of_rows, zero_of_rows = quantize_rows(
                values, load_rows(static, rows), load_rows(bound, rows), quantizer, exact
            )
            store_rows(q_rows, rows, bits)
            store_rows(scale_rows, rows, scale_of_rows)
            store_rows(zero, rows, zero_of_rows)
    return present(q, scales, zero, total, kept)
