# SPDX-License-Identifier: Apache-2.0
"""Whether two results are one: their layouts exactly, their values as far as rounding allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from helion_compile.errors import check_type

__all__ = ["Tolerance", "compare_layouts", "compare_values", "differ_in_strides"]

# A kernel computes in fp32 and rounds once; a reference that rounds once on the way besides is one step further.
_STEPS = 2
_WIDE_STEPS = 64  # of fp32 and fp64: a sum over 16384 values in any order, and 3 ulp of an approximate division
_CANCELLED = {torch.float64: 2.0**-47}
_CANCELLED_FP32 = 2.0**-18  # of a row's largest magnitude: what sums in fp32 may leave where values cancel


@dataclass(frozen=True)
class Tolerance:
    """How far values may differ: by steps of their dtype, or as the caller says."""

    rtol: float | None = None
    atol: float | None = None

    @classmethod
    def of(cls, rtol: float | None, atol: float | None) -> Tolerance:
        """TypeError or ValueError for one of the two alone, or for no tolerance."""
        for name, value in (("rtol", rtol), ("atol", atol)):
            if value is not None:
                check_type(f"check({name}=…)", value, (int, float), "a number that is not negative, such as 1e-3")
                if not value >= 0:
                    raise ValueError(f"check({name}={value!r}): give a number that is not negative, such as 1e-3.")
        if (rtol is None) != (atol is None):
            raise ValueError("check() was given one of rtol= and atol=; give both, or none for steps of the result's dtype.")
        return cls(rtol, atol)

    def describe(self, dtype: torch.dtype) -> str:
        if self.rtol is not None:
            return f"rtol={self.rtol:g}, atol={self.atol:g}"
        if not dtype.is_floating_point:
            return "equal values"
        steps = _WIDE_STEPS if dtype.itemsize > 2 else _STEPS
        return f"{steps} steps of {_short(dtype)}"

    def limit(self, expected: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | float:
        """The largest difference that is allowed, elementwise; ``expected`` is in fp64, finite, and of ``dtype`` before."""
        if self.rtol is not None and self.atol is not None:
            return self.atol + self.rtol * expected.abs()
        if not dtype.is_floating_point:
            return 0.0
        info = torch.finfo(dtype)
        exponent = torch.frexp(expected.abs().clamp(min=info.smallest_normal)).exponent.double() - 1
        steps = torch.exp2(exponent) * info.eps * (_WIDE_STEPS if dtype.itemsize > 2 else _STEPS)
        if not expected.dim():
            return steps
        return steps + expected.abs().amax(-1, keepdim=True) * _CANCELLED.get(dtype, _CANCELLED_FP32)


def compare_layouts(
    what: str, found: torch.Tensor, expected: torch.Tensor, one: str, other: str, strides: bool = True
) -> Iterator[str]:
    """A sentence for each of shape, dtype, strides and device that differs between ``found`` of ``one`` and the other's."""
    if found.shape != expected.shape:
        yield f"{_up(what)} is of shape {list(found.shape)} from {one} and {list(expected.shape)} from {other}."
    elif found.dtype != expected.dtype:
        yield f"{_up(what)} is of {_short(found.dtype)} from {one} and {_short(expected.dtype)} from {other}."
    elif found.device != expected.device:
        yield f"{_up(what)} is on {found.device} from {one} and on {expected.device} from {other}."
    elif strides and differ_in_strides(found, expected):
        yield f"{_up(what)} has strides {found.stride()} from {one} and {expected.stride()} from {other}."


def compare_values(
    what: str, found: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance, one: str, other: str
) -> Iterator[str]:
    """A sentence if values differ by more than ``tolerance``; both have one layout."""
    dtype = expected.dtype
    if dtype.is_complex:
        found, expected = torch.view_as_real(found), torch.view_as_real(expected)
        dtype = expected.dtype
    try:
        ours, theirs = found.double(), expected.double()
    except (NotImplementedError, RuntimeError):  # packed, such as float4_e2m1fn_x2
        ours, theirs, dtype = found.view(torch.uint8).double(), expected.view(torch.uint8).double(), torch.uint8
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    numbers = theirs.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    near = ours.isfinite() & theirs.isfinite() & ((ours - theirs).abs() <= tolerance.limit(numbers, dtype))
    wrong = ~(same | near)
    if not wrong.any():
        return
    far = torch.where(wrong, (ours - theirs).abs().nan_to_num(nan=torch.inf, posinf=torch.inf), -1.0)
    worst = int(far.flatten().argmax())
    place = [int(index) for index in torch.unravel_index(torch.tensor(worst), far.shape)] if far.dim() else []
    yield (
        f"{_up(what)} has other values: {float(wrong.double().mean()):.2%} of the elements, the farthest at {place}, "
        f"{float(ours.flatten()[worst]):.6g} from {one} and {float(theirs.flatten()[worst]):.6g} from {other} "
        f"(allowed: {tolerance.describe(dtype)})."
    )


def differ_in_strides(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and _strides(one) != _strides(other)


def _strides(tensor: torch.Tensor) -> list[int]:
    """Those that count: of dimensions with several elements, in a tensor that has any."""
    if not tensor.numel():
        return []
    return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _up(text: str) -> str:
    return text[:1].upper() + text[1:]
