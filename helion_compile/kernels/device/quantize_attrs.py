# SPDX-License-Identifier: Apache-2.0
"""How values become 8 bits: the attributes that every quantising kernel takes, as one line of text.

Letters: ``M`` rows (tokens), ``K`` elements of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from helion_compile.kernels.device.attribute_text import Attributes, find_unknown_word
from helion_compile.kernels.device.rows import FLOATS

__all__ = ["FORMAT_MAX", "QuantizeAttrs", "check_quantizer", "get_group", "new_results", "new_scales"]

# Largest finite magnitude of a format; of int8 the one that has a negative.
FORMAT_MAX = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0, torch.int8: 127.0}


@dataclass(frozen=True)
class QuantizeAttrs(Attributes):
    """The attributes; words are the names of :mod:`helion_compile.passes.semantics`' enumerations, in lower case.

    Attributes:
        dtype: of the result: float8_e4m3fn, float8_e5m2 or int8.
        group: consecutive elements of a row that share a scale; all of the row by default (per token).
        zero_point: int8, asymmetric: ``scale = (max(x, 0) - min(x, 0)) / qmax`` with ``qmax = high - low``, and
            ``low - round(min(x, 0) / scale)``, clamped, is added to the rounded quotient before its clamp.
        qmax: the scale is the largest magnitude of what shares it, divided by this; by default the format's largest value.
        clamp: bounds of the scaled values.  Without, what exceeds the range of e4m3 becomes NaN, as in torch's cast.
        use: "divide" (x / scale), "multiply_reciprocal" (x * (1 / scale)), "multiply_factor" (x * ((1 / amax) * qmax), with
            the scale apart) or "multiply_factor_inverse" (the same, with 1 / factor as scale).
        scale_dtype: dtype in which the model computes ``amax / qmax``, before it converts the scale to fp32.
        division: of amax by qmax as a "number", which eager CUDA multiplies with the fp32 reciprocal of, as a "tensor", or
            by multiplying with its "reciprocal".
        amax_ceiling, amax_floor, scale_floor: bounds of the largest magnitude, the upper first, and of the scale.
        ue8m0: the scale is rounded up to a power of two, before its floor.
        layout: of scales [M, K / group]: "row_major", "column_major" (strides 1, M) or "tma_aligned" (strides 1, M rounded
            up to 4, which is 16 bytes).
    """

    dtype: torch.dtype
    group: int | None = None
    zero_point: bool = False
    qmax: float | None = None
    clamp: tuple[float, float] | None = None
    use: Literal["divide", "multiply_reciprocal", "multiply_factor", "multiply_factor_inverse"] = "divide"
    scale_dtype: torch.dtype = torch.float32
    division: Literal["number", "tensor", "reciprocal"] = "number"
    amax_ceiling: float | None = None
    amax_floor: float | None = None
    scale_floor: float | None = None
    ue8m0: bool = False
    layout: Literal["row_major", "column_major", "tma_aligned"] = "row_major"

    def __post_init__(self) -> None:
        if self.zero_point or self.qmax == FORMAT_MAX.get(self.dtype):  # of a zero point it is the clamp's width
            object.__setattr__(self, "qmax", None)


def find_divisor(attrs: QuantizeAttrs) -> float:
    """What the largest magnitude is divided by; no property, which Dynamo cannot read of a frozen data class."""
    return attrs.qmax or FORMAT_MAX.get(attrs.dtype, 0.0)


def check_quantizer(text: str, hidden_size: int, exact: bool) -> str | None:
    """Why no kernel computes this for rows of ``hidden_size`` elements, as a sentence, or None."""
    attrs = QuantizeAttrs.parse(text)
    largest = FORMAT_MAX.get(attrs.dtype)
    if largest is None:
        return f"the values become {attrs.dtype}; the kernel makes {', '.join(map(str, FORMAT_MAX))}"
    if unknown := find_unknown_word(attrs):
        return f"the quantiser's {unknown}"
    low, high = attrs.clamp or (0.0, 0.0)
    if low < -largest - (attrs.dtype == torch.int8) or high > largest:
        return f"the values are clamped to [{low:g}, {high:g}], beyond the range of {attrs.dtype}"
    if attrs.clamp is None and attrs.dtype != torch.float8_e4m3fn:
        return f"nothing bounds the values before the cast to {attrs.dtype}; clamped to ±{largest:g} the kernel takes them"
    if attrs.group is not None and (attrs.group < 16 or attrs.group & (attrs.group - 1) or hidden_size % attrs.group):
        return (
            f"a scale is shared by {attrs.group} of {hidden_size} values; the kernel takes groups of a power of two from "
            f"16 on that divides the row"
        )
    if attrs.group is not None and attrs.zero_point:
        return f"the quantiser has a zero point for each {attrs.group} values; the kernel takes one for each token"
    if attrs.zero_point and attrs.dtype != torch.int8:
        return f"the quantiser to {attrs.dtype} has a zero point; the kernel knows one for torch.int8"
    if attrs.zero_point and exact and attrs.scale_dtype != torch.float32:
        return (
            f"the zero point comes from a division in {attrs.scale_dtype}, which the kernel makes in fp32; use "
            f"numerics='default'"
        )
    if exact and attrs.scale_dtype not in FLOATS:
        return f"the scale is computed in {attrs.scale_dtype}, which the kernel keeps only to fp32; use numerics='default'"
    return None


def new_scales(x: torch.Tensor, text: str) -> torch.Tensor:
    """Memory for the fp32 scales of the rows of ``x`` [M, K]: [M, 1], or [M, K / group] laid out as the text says."""
    attrs = QuantizeAttrs.parse(text)
    rows = x.size(0)
    if attrs.group is None:
        return torch.empty([rows, 1], dtype=torch.float32, device=x.device)
    groups = x.size(1) // attrs.group
    step = (rows + 3) // 4 * 4 if attrs.layout == "tma_aligned" else rows
    strides = [groups, 1] if attrs.layout == "row_major" else [1, step]
    return torch.empty_strided([rows, groups], strides, dtype=torch.float32, device=x.device)


def get_group(text: str) -> int | None:
    """How many consecutive values share a scale; None for a whole row."""
    return QuantizeAttrs.parse(text).group


def new_results(
    x: torch.Tensor, scale: torch.Tensor | None, text: str
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Memory for ``x`` [M, K] quantised, its scales unless ``scale`` is the one, and its zero points if there are any."""
    attrs = QuantizeAttrs.parse(text)
    q = torch.empty([x.size(0), x.size(1)], dtype=attrs.dtype, device=x.device)
    scales = new_scales(x, text) if scale is None else None
    zero = torch.empty([x.size(0), 1], dtype=torch.int8, device=x.device) if attrs.zero_point and scale is None else None
    return q, scales, zero
