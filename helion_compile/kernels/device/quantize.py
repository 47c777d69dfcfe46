# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of quantisation, in kernels and in plain torch, shared by every kernel that quantises.

Letters: ``M`` rows (tokens), ``K`` elements of a row.  ``values`` are [M, K], or [M, K / group, group] where groups share a
scale; ``...`` stands for what comes before the last dimension.

Numerics.  With ``exact`` every rounding step of the written form is kept: bit for bit what eager PyTorch gives on a GPU (NaNs
are NaN, of either sign).  Without it the scale is not rounded to the model's dtype on the way and the division is by the fast
reciprocal (3 ulp of fp32): the steps that Inductor's own fusion of the same code leaves out too.  A scale that becomes a
power of two is rounded before in both, as a step there is a factor of two.
"""

from __future__ import annotations

import torch

from helion_compile.kernels.device.division import compute_reciprocal, divide_rows, divide_rows_fast
from helion_compile.kernels.device.quantize_attrs import FORMAT_MAX, QuantizeAttrs, find_divisor, new_scales
from helion_compile.kernels.device.rounding import ordered_bits, round_to

__all__ = ["quantize_parts", "quantize_rows", "quantize_rows_reference"]

E4M3_OVERFLOW = 464.0  # torch's cast makes NaN of what is above, midway to the next step; Triton's cast saturates


def quantize_rows(
    values: torch.Tensor, scale: torch.Tensor | None, scale_ub: torch.Tensor | None, quantizer: str, exact: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """In a kernel: ``values`` fp32 -> 8 bits; fp32 scales and int8 zero points [..., 1], each None where there is none.

    Args:
        scale: static scale, fp32 that broadcasts with ``values``, or None for one taken from the values.
        scale_ub: upper bound of the largest magnitude, fp32 that broadcasts, or None.
        quantizer: text of :class:`helion_compile.kernels.device.quantize_attrs.QuantizeAttrs`.
        exact: keep every rounding step of the model (see the module's text).
    """
    attrs = QuantizeAttrs.parse(quantizer)
    if scale is not None:
        return _cast(_apply_scale(values, scale, attrs, exact), None, attrs), None, None
    if not attrs.zero_point:
        amax = _clamp_amax(_amax(values), scale_ub, attrs)
        scale = _compute_scale(amax, find_divisor(attrs), attrs, exact)
        if attrs.use in ("divide", "multiply_reciprocal"):
            return _cast(_apply_scale(values, scale, attrs, exact), None, attrs), scale, None
        factor = _compute_factor(amax, attrs, exact)
        if attrs.use == "multiply_factor_inverse":
            scale = compute_reciprocal(factor) if exact else 1.0 / factor
        return _cast(values * factor, None, attrs), scale, None
    low, high = attrs.clamp
    smallest, largest = _range(values)
    scale = _compute_scale(largest - smallest, high - low, attrs, exact)
    # Correctly rounded in default numerics too: of the fast division behind a norm, Triton 3.6 makes code in which every
    # thread holds the whole row, and ptxas takes minutes.
    zero = _clamp(low - torch.round(divide_rows(smallest, scale)), low, high)
    return _cast(_apply_scale(values, scale, attrs, True), zero, attrs), scale, zero.to(torch.int8)


def quantize_parts(
    front: torch.Tensor, back: torch.Tensor, scale_ub: torch.Tensor | None, quantizer: str, exact: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """In a kernel: rows in two parts, fp32, that share a scale -> 8 bits of each, and the scales.

    As :func:`quantize_rows` of the whole rows, with a scale a row and no zero point.
    """
    attrs = QuantizeAttrs.parse(quantizer)
    bits, bits_of_back = _amax(front).view(torch.int32), _amax(back).view(torch.int32)
    amax = _clamp_amax(torch.where(bits > bits_of_back, bits, bits_of_back).view(torch.float32), scale_ub, attrs)
    scale = _compute_scale(amax, find_divisor(attrs), attrs, exact)
    if attrs.use in ("divide", "multiply_reciprocal"):
        front, back = _apply_scale(front, scale, attrs, exact), _apply_scale(back, scale, attrs, exact)
    else:
        factor = _compute_factor(amax, attrs, exact)
        if attrs.use == "multiply_factor_inverse":
            scale = compute_reciprocal(factor) if exact else 1.0 / factor
        front, back = front * factor, back * factor
    return _cast(front, None, attrs), _cast(back, None, attrs), scale


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


def _clamp_amax(amax: torch.Tensor, scale_ub: torch.Tensor | None, attrs: QuantizeAttrs) -> torch.Tensor:
    # Through comparisons that NaN fails, as torch's clamps let NaN through.
    if scale_ub is not None:
        amax = torch.where((amax <= scale_ub) | (amax != amax), amax, scale_ub)  # a NaN in either gives NaN
    if attrs.amax_ceiling is not None:
        amax = torch.where(amax > attrs.amax_ceiling, attrs.amax_ceiling, amax)
    if attrs.amax_floor is not None:
        amax = torch.where(amax < attrs.amax_floor, attrs.amax_floor, amax)
    return amax


def _compute_scale(reduced: torch.Tensor, divisor: float, attrs: QuantizeAttrs, exact: bool) -> torch.Tensor:
    if attrs.division == "tensor" and exact:
        scale = divide_rows(reduced, torch.full_like(reduced, divisor))
    else:
        # Eager CUDA divides by a Python number by multiplying with its fp32 reciprocal.
        scale = reduced * (1.0 / divisor)
    if exact or attrs.ue8m0:
        scale = round_to(scale, attrs.scale_dtype)
    if attrs.ue8m0:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    return scale if attrs.scale_floor is None else torch.where(scale < attrs.scale_floor, attrs.scale_floor, scale)


def _compute_factor(amax: torch.Tensor, attrs: QuantizeAttrs, exact: bool) -> torch.Tensor:
    if not exact:
        return 1.0 / amax * find_divisor(attrs)
    return round_to(round_to(compute_reciprocal(amax), attrs.scale_dtype) * find_divisor(attrs), attrs.scale_dtype)


def _apply_scale(values: torch.Tensor, scale: torch.Tensor, attrs: QuantizeAttrs, exact: bool) -> torch.Tensor:
    if attrs.use == "divide":
        return divide_rows(values, scale) if exact else divide_rows_fast(values, scale)
    return values * (compute_reciprocal(scale) if exact else 1.0 / scale)


def _cast(values: torch.Tensor, zero: torch.Tensor | None, attrs: QuantizeAttrs) -> torch.Tensor:
    if attrs.dtype == torch.int8:
        values = torch.round(values)
        if zero is not None:
            values = values + zero
        return _clamp(values, *attrs.clamp).to(torch.int8)
    if attrs.clamp is None:
        values = torch.where(torch.abs(values) > E4M3_OVERFLOW, float("nan"), values)
    elif attrs.clamp != (-FORMAT_MAX[attrs.dtype], FORMAT_MAX[attrs.dtype]):  # to these Triton's cast saturates
        values = _clamp(values, *attrs.clamp)
    return values.to(attrs.dtype)


def _clamp(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Clamped through comparisons that NaN fails: NaN stays, which costs less than the NaN-propagating minimum."""
    values = torch.where(values < low, low, values)
    return torch.where(values > high, high, values)


def quantize_rows_reference(
    values: torch.Tensor, scale: torch.Tensor | None, scale_ub: torch.Tensor | None, quantizer: str, exact: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """:func:`quantize_rows` of whole rows [M, K] in plain torch; on the GPU its ``exact`` form is eager's own arithmetic.

    Scales are [M, 1], or [M, K / group] in the layout that ``quantizer`` names.
    """
    attrs = QuantizeAttrs.parse(quantizer)
    shape = values.shape
    if attrs.group is not None:
        values = values.unflatten(-1, (shape[-1] // attrs.group, attrs.group))
    zero, given = None, scale
    if given is not None:
        scale = given.reshape(1)
    elif attrs.zero_point:
        low, high = attrs.clamp
        smallest = values.amin(dim=-1, keepdim=True).clamp_max(0.0)
        largest = values.amax(dim=-1, keepdim=True).clamp_min(0.0)
        scale = _compute_scale_reference(largest - smallest, high - low, attrs, exact)
        zero = (low - (smallest / scale).round()).clamp(low, high)
    else:
        amax = values.abs().amax(dim=-1, keepdim=True)
        if scale_ub is not None:
            amax = torch.minimum(amax, scale_ub.reshape(1))
        if attrs.amax_ceiling is not None:
            amax = amax.clamp_max(attrs.amax_ceiling)
        if attrs.amax_floor is not None:
            amax = amax.clamp_min(attrs.amax_floor)
        scale = _compute_scale_reference(amax, find_divisor(attrs), attrs, exact)
    if attrs.use == "divide":
        values = values / scale
    elif attrs.use == "multiply_reciprocal":
        values = values * scale.reciprocal()
    else:
        dtype = attrs.scale_dtype if exact else torch.float32
        factor = (amax.to(dtype).reciprocal() * find_divisor(attrs)).float()
        values = values * factor
        if attrs.use == "multiply_factor_inverse":
            scale = factor.reciprocal()
    if attrs.dtype == torch.int8:
        values = values.round()
        if zero is not None:
            values = values + zero
    if attrs.clamp is not None:
        values = values.clamp(*attrs.clamp)
    q = values.to(attrs.dtype).reshape(shape)
    if given is not None:
        return q, None, None
    if attrs.group is not None:
        # Allocated as the kernel does: the strides are part of the result.
        scale = new_scales(q, quantizer).copy_(scale.squeeze(-1))
    return q, scale, None if zero is None else zero.to(torch.int8)


def _compute_scale_reference(reduced: torch.Tensor, divisor: float, attrs: QuantizeAttrs, exact: bool) -> torch.Tensor:
    if attrs.division == "tensor":
        scale = reduced / torch.full_like(reduced, divisor)
    else:
        scale = reduced / divisor if attrs.division == "number" else reduced * (1.0 / divisor)
    if exact or attrs.ue8m0:
        scale = scale.to(attrs.scale_dtype).float()
    if attrs.ue8m0:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    return scale if attrs.scale_floor is None else scale.clamp_min(attrs.scale_floor)
