"""``rms_norm_quant``: RMSNorm, with or without the residual add before it, and dynamic fp8 quantisation in one pass.

Letters: ``M`` rows (tokens), ``K`` hidden size.

Numerics.  With ``exact`` every rounding step of the spelled form is kept, so that only the order of summation in the mean can
differ from eager PyTorch.  Without it the sum, the normalised value and the scale stay in fp32, as in the code that Inductor
makes of the same chain.
"""

from __future__ import annotations

import helion.language as hl
import torch

from helion_compile.case import Case
from helion_compile.kernel import kernel
from helion_compile.kernels.quant import quantize_rows, quantize_rows_reference
from helion_compile.kernels.rounding import rounded
from helion_compile.kernels.rows import default_config, dtype_of, refuse_rows

__all__ = ["rms_norm_quant"]


def _reference(
    x,
    weight,
    residual,
    eps,
    cast_then_scale,
    scale_dtype,
    use,
    clamp,
    amax_floor,
    scale_floor,
    exact,
    keep_norm,
):
    def maybe_rounded(values):
        return values.to(x.dtype).float() if exact else values

    values = x.float()
    if residual is not None:
        values = values + residual.float()
        total = values.to(x.dtype)
        values = maybe_rounded(values)
    values = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + eps)
    if weight is not None:
        if cast_then_scale:
            values = maybe_rounded(values)
        values = values * weight.float()
    values = maybe_rounded(values)
    q, scale = quantize_rows_reference(values, scale_dtype, use, clamp, amax_floor, scale_floor, exact)
    results = (q, scale)
    if residual is not None:
        results = (*results, total)
    if keep_norm:
        results = (*results, values.to(x.dtype))
    return results


def _case(x, weight, residual, *_):
    return Case(
        hidden_size=x.size(-1),
        num_tokens=x.size(0),
        dtype=x.dtype,
        residual=residual is not None,
    )


def _refuse(x, weight, residual, *_):
    for name, tensor in (("weight", weight), ("residual", residual)):
        if tensor is not None and tensor.dtype != x.dtype:
            return f"{name} is {tensor.dtype} and x is {x.dtype}; both must have one dtype"
    return refuse_rows(x=x, weight=weight, residual=residual)


def _inputs(case, device):
    dtype = dtype_of(case)
    x = torch.randn(case["num_tokens"], case["hidden_size"], device=device).to(dtype)
    weight = torch.randn(case["hidden_size"], device=device).to(dtype)
    residual = torch.randn_like(x) if case["residual"] else None
    return x, weight, residual, 1e-6, True, torch.bfloat16, "divide", True, None, None, False, False


def _shapes(layer):
    return [{"hidden_size": layer.hidden_size, "residual": residual} for residual in (False, True)]


@kernel(
    reference=_reference,
    case=_case,
    refuse=_refuse,
    default_config=default_config,
    inputs=_inputs,
    shapes=_shapes,
)
def rms_norm_quant(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    cast_then_scale: hl.constexpr,
    scale_dtype: hl.constexpr,
    use: hl.constexpr,
    clamp: hl.constexpr,
    amax_floor: hl.constexpr,
    scale_floor: hl.constexpr,
    exact: hl.constexpr,
    keep_norm: hl.constexpr,
):
    """``weight * (x + residual) / sqrt(mean((x + residual)²) + eps)``, quantised row by row; one read, one write.

    Args:
        x, residual: [M, K] bf16, fp16 or fp32, last dimension contiguous; ``residual`` may be None.
        weight: [K] of ``x``'s dtype, or None.
        eps: added to the mean square.
        cast_then_scale: whether the model rounds to ``x``'s dtype before the weight (Llama) or after it (nn.RMSNorm).
        scale_dtype, use, clamp, amax_floor, scale_floor: as for ``quant``.
        exact: keep every rounding step of the model (see the module's text).
        keep_norm: return the normalised value too.

    Returns:
        fp8 [M, K] and fp32 scales [M, 1]; then ``x + residual`` [M, K] if there is a residual, then the normalised value
        [M, K] if ``keep_norm``, both in ``x``'s dtype.
    """
    m, k = x.size()
    k = hl.specialize(k)
    q = torch.empty([m, k], dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty([m, 1], dtype=torch.float32, device=x.device)
    total = torch.empty([m, k], dtype=x.dtype, device=x.device) if residual is not None else None
    norm = torch.empty([m, k], dtype=x.dtype, device=x.device) if keep_norm else None
    # As rows of stride 0 the weight is loaded in the layout of x.  As a vector it would be converted through shared memory,
    # for which Triton at times picks a layout that gives every thread the whole row, and minutes of ptxas.
    # (Not by expand(): bound for one row, Helion would take m for 1 for good.)
    if weight is not None:
        weights = weight.as_strided([m, k], [0, 1])
    for rows in hl.tile(m):
        values = x[rows, :].to(torch.float32)
        # Before the first reduction, as loads behind its barrier wait for it (H200, M=8192, K=4096: 28.3 -> 27.3 µs).
        if weight is not None:
            factor = weights[rows, :].to(torch.float32)
        if residual is not None:
            values = values + residual[rows, :].to(torch.float32)
            total[rows, :] = values.to(x.dtype)
            if exact:
                values = rounded(values, x.dtype)
        values = values * torch.rsqrt(torch.mean(values * values, dim=-1, keepdim=True) + eps)
        if weight is not None:
            if cast_then_scale and exact:
                values = rounded(values, x.dtype)
            values = values * factor
        if exact:
            values = rounded(values, x.dtype)
        if keep_norm:
            norm[rows, :] = values.to(x.dtype)
        q[rows, :], scale[rows, :] = quantize_rows(values, scale_dtype, use, clamp, amax_floor, scale_floor, exact)
    # Helion gives one name one type, so the results cannot be collected step by step.
    if residual is None:
        return (q, scale, norm) if keep_norm else (q, scale)
    return (q, scale, total, norm) if keep_norm else (q, scale, total)
