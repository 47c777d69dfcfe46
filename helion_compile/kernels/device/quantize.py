"""The arithmetic of quantisation, in kernels and in plain torch, shared by every kernel that quantises.

Letters: ``M`` rows (tokens), ``K`` elements of a row.  ``values`` are [M, K], or [M, K / group, group] where groups share a
scale; ``...`` stands for what comes before the last dimension.

Numerics.  With ``exact`` every rounding step of the spelled form is kept: bit for bit what eager PyTorch gives on a GPU (NaNs
are NaN, of either sign).  Without it the scale is not rounded to the model's dtype on the way and the division is by the fast
reciprocal (3 ulp of fp32): the steps that Inductor's own fusion of the same code leaves out too.  A scale that becomes a
power of two is rounded before in both, as a step there is a factor of two.
"""

from __future__ import annotations

import torch

from helion_compile.kernels.device.division import divide_rows, divide_rows_fast, reciprocal_of
from helion_compile.kernels.device.quantize_attrs import FORMAT_MAX, Quantization, scales_like
from helion_compile.kernels.device.rounding import ordered_bits, rounded

__all__ = ["quantize_rows", "quantize_rows_reference"]

E4M3_OVERFLOW = 464.0  # torch's cast makes NaN of what is above, midway to the next step; Triton's cast saturates


def quantize_rows(
    values: torch.Tensor, scale: torch.Tensor | None, scale_ub: torch.Tensor | None, quantizer: str, exact: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """In a kernel: ``values`` fp32 -> 8 bits; fp32 scales and int8 zero points [..., 1], each None where there is none.

    Args:
        scale: static scale, fp32 that broadcasts with ``values``, or None for one taken from the values.
        scale_ub: upper bound of the largest magnitude, fp32 that broadcasts, or None.
        quantizer: text of :func:`helion_compile.kernels.device.quantize_attrs.quantization`.
        exact: keep every rounding step of the model (see the module's text).
    """
    how = Quantization(quantizer)
    if scale is not None:
        return _to_8_bits(_scaled(values, scale, how, exact), None, how), None, None
    if not how.zero_point:
        amax = _bounded_amax(_amax(values), scale_ub, how)
        scale = _scale_from(amax, how.qmax, how, exact)
        if how.use in ("divide", "reciprocal"):
            return _to_8_bits(_scaled(values, scale, how, exact), None, how), scale, None
        factor = _factor(amax, how, exact)
        if how.use == "factor_inverse":
            scale = reciprocal_of(factor) if exact else 1.0 / factor
        return _to_8_bits(values * factor, None, how), scale, None
    low, high = how.clamp
    smallest, largest = _range(values)
    scale = _scale_from(largest - smallest, high - low, how, exact)
    # Correctly rounded in default numerics too: of the fast division behind a norm, Triton 3.6 makes code in which every
    # thread holds the whole row, and ptxas takes minutes.
    zero = _bounded(low - torch.round(divide_rows(smallest, scale)), low, high)
    return _to_8_bits(_scaled(values, scale, how, True), zero, how), scale, zero.to(torch.int8)


def _amax(values: torch.Tensor) -> torch.Tensor:
    """Largest magnitude, [..., 1], NaN if there is one.

    As integers, the bits of non-negative floats order like the floats, with NaN above infinity.  A maximum over integers
    keeps NaN, which one over floats drops on a GPU unless it is the slower, NaN-propagating kind.
    """
    bits = torch.abs(values).view(torch.int32)
    return torch.amax(bits, dim=-1, keepdim=True).view(torch.float32)


def _range(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest value or 0 and the largest value or 0, [..., 1]; one of them is NaN if there is one."""
    keys = ordered_bits(values)
    smallest = torch.amin(keys, dim=-1, keepdim=True)
    largest = torch.amax(keys, dim=-1, keepdim=True)
    smallest = (smallest ^ ((smallest >> 31) & 0x7FFFFFFF)).view(torch.float32)
    largest = (largest ^ ((largest >> 31) & 0x7FFFFFFF)).view(torch.float32)
    # Through comparisons that NaN fails.
    return torch.where(smallest > 0.0, 0.0, smallest), torch.where(largest < 0.0, 0.0, largest)


def _bounded_amax(amax: torch.Tensor, scale_ub: torch.Tensor | None, how: Quantization) -> torch.Tensor:
    # Through comparisons that NaN fails, as torch's clamps let NaN through.
    if scale_ub is not None:
        amax = torch.where((amax <= scale_ub) | (amax != amax), amax, scale_ub)  # a NaN in either gives NaN
    if how.amax_ceiling is not None:
        amax = torch.where(amax > how.amax_ceiling, how.amax_ceiling, amax)
    if how.amax_floor is not None:
        amax = torch.where(amax < how.amax_floor, how.amax_floor, amax)
    return amax


def _scale_from(extent: torch.Tensor, steps: float, how: Quantization, exact: bool) -> torch.Tensor:
    if how.division == "tensor" and exact:
        scale = divide_rows(extent, torch.full_like(extent, steps))
    else:
        # Eager CUDA divides by a Python number by multiplying with its fp32 reciprocal.
        scale = extent * (1.0 / steps)
    if exact or how.ue8m0:
        scale = rounded(scale, how.scale_dtype)
    if how.ue8m0:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    return scale if how.scale_floor is None else torch.where(scale < how.scale_floor, how.scale_floor, scale)


def _factor(amax: torch.Tensor, how: Quantization, exact: bool) -> torch.Tensor:
    if not exact:
        return 1.0 / amax * how.qmax
    return rounded(rounded(reciprocal_of(amax), how.scale_dtype) * how.qmax, how.scale_dtype)


def _scaled(values: torch.Tensor, scale: torch.Tensor, how: Quantization, exact: bool) -> torch.Tensor:
    if how.use == "divide":
        return divide_rows(values, scale) if exact else divide_rows_fast(values, scale)
    return values * (reciprocal_of(scale) if exact else 1.0 / scale)


def _to_8_bits(values: torch.Tensor, zero: torch.Tensor | None, how: Quantization) -> torch.Tensor:
    if how.dtype == torch.int8:
        values = torch.round(values)
        if zero is not None:
            values = values + zero
        return _bounded(values, *how.clamp).to(torch.int8)
    if how.clamp is None:
        values = torch.where(torch.abs(values) > E4M3_OVERFLOW, float("nan"), values)
    elif how.clamp != (-FORMAT_MAX[how.dtype], FORMAT_MAX[how.dtype]):  # to these Triton's cast saturates
        values = _bounded(values, *how.clamp)
    return values.to(how.dtype)


def _bounded(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Clamped through comparisons that NaN fails: NaN stays, which costs less than the NaN-propagating minimum."""
    values = torch.where(values < low, low, values)
    return torch.where(values > high, high, values)


def quantize_rows_reference(
    values: torch.Tensor, scale: torch.Tensor | None, scale_ub: torch.Tensor | None, quantizer: str, exact: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """:func:`quantize_rows` of whole rows [M, K] in plain torch; on the GPU its ``exact`` form is eager's own arithmetic.

    Scales are [M, 1], or [M, K / group] in the layout that ``quantizer`` names.
    """
    how = Quantization(quantizer)
    shape = values.shape
    if how.group is not None:
        values = values.unflatten(-1, (shape[-1] // how.group, how.group))
    zero, given = None, scale
    if given is not None:
        scale = given.reshape(1)
    elif how.zero_point:
        low, high = how.clamp
        smallest = values.amin(dim=-1, keepdim=True).clamp_max(0.0)
        largest = values.amax(dim=-1, keepdim=True).clamp_min(0.0)
        scale = _scale_from_reference(largest - smallest, high - low, how, exact)
        zero = (low - (smallest / scale).round()).clamp(low, high)
    else:
        amax = values.abs().amax(dim=-1, keepdim=True)
        if scale_ub is not None:
            amax = torch.minimum(amax, scale_ub.reshape(1))
        if how.amax_ceiling is not None:
            amax = amax.clamp_max(how.amax_ceiling)
        if how.amax_floor is not None:
            amax = amax.clamp_min(how.amax_floor)
        scale = _scale_from_reference(amax, how.qmax, how, exact)
    if how.use == "divide":
        values = values / scale
    elif how.use == "reciprocal":
        values = values * scale.reciprocal()
    else:
        dtype = how.scale_dtype if exact else torch.float32
        factor = (amax.to(dtype).reciprocal() * how.qmax).float()
        values = values * factor
        if how.use == "factor_inverse":
            scale = factor.reciprocal()
    if how.dtype == torch.int8:
        values = values.round()
        if zero is not None:
            values = values + zero
    if how.clamp is not None:
        values = values.clamp(*how.clamp)
    q = values.to(how.dtype).reshape(shape)
    if given is not None:
        return q, None, None
    if how.group is not None:
        # Allocated as the kernel does: the strides are part of the result.
        scale = scales_like(q, quantizer).copy_(scale.squeeze(-1))
    return q, scale, None if zero is None else zero.to(torch.int8)


def _scale_from_reference(extent: torch.Tensor, steps: float, how: Quantization, exact: bool) -> torch.Tensor:
    if how.division == "tensor":
        scale = extent / torch.full_like(extent, steps)
    else:
        scale = extent / steps if how.division == "number" else extent * (1.0 / steps)
    if exact or how.ue8m0:
        scale = scale.to(how.scale_dtype).float()
    if how.ue8m0:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    return scale if how.scale_floor is None else scale.clamp_min(how.scale_floor)
