# SPDX-License-Identifier: Apache-2.0
"""Quantisation of activations."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

import torch

from helion_compile.passes.ir.values import dtype_name
from helion_compile.passes.semantics.base import SemanticOp, text

__all__ = ["Granularity", "Quantize", "ScaleDivision", "ScaleFormat", "ScaleLayout", "ScaleUse"]


class ScaleUse(enum.Enum):
    """How the values are brought to the quantised range.

    The next to last two have a factor ``(1 / amax) * qmax``, computed in the scale's dtype and converted to fp32; the last
    one of a single division, ``qmax / amax``.
    """

    DIVIDE = "divide"  # x / scale
    MULTIPLY_RECIPROCAL = "multiply by reciprocal"  # x * (1 / scale)
    MULTIPLY_FACTOR = "multiply by qmax / amax"  # x * factor; the scale is computed apart, as amax / qmax: DeepGEMM
    MULTIPLY_FACTOR_INVERSE = "multiply by qmax / amax, its inverse as scale"  # scale = 1 / factor: torchao's training
    MULTIPLY_QUOTIENT = "multiply by qmax / amax in one division, its inverse as scale"  # MSLK's and FBGEMM's Triton


class ScaleDivision(enum.Enum):
    """How ``amax / qmax`` is computed: three functions of other bits on one device or another.

    Eager CUDA multiplies by the fp32 reciprocal of a Python number, and divides by a tensor.
    """

    NUMBER = "by a number"  # amax / 448.0
    TENSOR = "by a tensor"  # amax / torch.tensor(448.0)
    RECIPROCAL = "by multiplying with 1 / qmax"  # amax * (1 / 448.0), the reciprocal a Python number


class Granularity(enum.Enum):
    """What shares a scale."""

    TOKEN = "per token"  # a row: scale [..., 1]
    GROUP = "per group"  # `group` neighbouring values of a row: scale [..., K / group]
    TENSOR = "per tensor"  # everything: scale of one element


class ScaleFormat(enum.Enum):
    """What values a scale can take."""

    FP32 = "fp32"
    UE8M0 = "ue8m0"  # rounded up to a power of two, as exp2(ceil(log2(scale))) in fp32, and kept as fp32


class ScaleLayout(enum.Enum):
    """How the scales [M, K / group] lie in memory; part of the semantic op, as block-scaled GEMMs read one of them."""

    ROW_MAJOR = "row-major"
    COLUMN_MAJOR = "column-major"  # strides (1, M)
    TMA_ALIGNED = "column-major, TMA-aligned"  # strides (1, M rounded up to 16 bytes)


@dataclass(frozen=True, kw_only=True)
class Quantize(SemanticOp):
    """Quantisation of ``x`` to 8 bits.

    Dynamic and symmetric: ``amax = max |x|`` over what shares a scale, exact, bounded above by ``scale_ub`` (an input)
    if set, or by ``amax_ceiling``, then from below by ``amax_floor``; ``amax_of_zeros``, if set, stands for one that is not
    above 0 (a row of zeros, or one with a NaN); with ``zero_of_any_sign`` a row of zeros has 0 or -0, as the device's minimum,
    maximum and the order of operands will have it; ``scale = amax / qmax`` (see ``division``), computed
    and rounded in ``scale_dtype`` and then converted to fp32, to ``scale_format``, and bounded from below by
    ``scale_floor``; the values, in fp32, are divided by the fp32 scale (see ``use``), rounded half to even if ``dtype`` is
    an integer, clamped if ``clamp``, and cast to ``dtype``.

    With ``zero_point`` (int8): ``scale = (max(x, 0) - min(x, 0)) / qmax`` with ``qmax = high - low`` and ``low, high =
    clamp``; ``zero = low - round(min(x, 0) / scale)``, each step in ``scale_dtype``, clamped, is added to the rounded
    quotient before its clamp.

    Static (not ``dynamic``): the scale is an input, ``qmax`` is the bound of the format and ``scale_dtype`` fp32.

    Inputs: ``x`` [..., K]; ``scale_ub``, fp32 of one element, if ``scale_ub``; ``scale``, fp32 of one element, if static.
    Outputs: ``q`` [..., K] of ``dtype``; if dynamic, ``scale`` fp32 as ``granularity`` says; ``zero`` [..., 1] int8 if
    ``zero_point``.  Each may come in another shape with the same elements in the same order: [..., K / group, group].
    """

    ROWS: ClassVar[frozenset[str]] = frozenset({"x"})

    x_dtype: torch.dtype
    dtype: torch.dtype
    qmax: float
    granularity: Granularity = Granularity.TOKEN
    group: int | None = None  # values that share a scale, if `granularity` is GROUP
    dynamic: bool = True
    zero_point: bool = False
    scale_dtype: torch.dtype
    division: ScaleDivision = ScaleDivision.NUMBER
    scale_format: ScaleFormat = ScaleFormat.FP32
    scale_layout: ScaleLayout = ScaleLayout.ROW_MAJOR
    scale_ub: bool = False
    use: ScaleUse
    clamp: tuple[float, float] | None
    amax_ceiling: float | None = None  # in amax's unit, applied before the floor
    amax_floor: float | None = None  # in amax's unit, applied before the division by qmax
    amax_of_zeros: float | None = None
    zero_of_any_sign: bool = False  # amax is max(-min(x), max(x)), and nothing bounds its zero, which may be -0, from below
    scale_floor: float | None = None  # in the scale's unit, applied after it

    def __str__(self) -> str:
        kind = "" if self.dynamic else "static "
        shared = f"{self.granularity.value} of {self.group}" if self.group else self.granularity.value
        layout = self.scale_layout.value if self.scale_layout is not ScaleLayout.ROW_MAJOR else ""
        return text(
            "Quantize",
            f"{dtype_name(self.x_dtype)} to {kind}{dtype_name(self.dtype)} {shared}",
            "zero point" if self.zero_point else "",
            f"{dtype_name(self.scale_dtype)} scale" if self.dynamic else "",
            f"qmax {self.qmax:g}" if self.qmax != self._bound and not self.zero_point else "",
            f"amax / qmax {self.division.value}" if self.division is not ScaleDivision.NUMBER else "",
            self.scale_format.value if self.scale_format is not ScaleFormat.FP32 else "",
            f"scales {layout}" if layout else "",
            self.use.value,
            self._clamp_text(),
            "amax <= scale_ub" if self.scale_ub else "",
            f"amax <= {self.amax_ceiling:g}" if self.amax_ceiling is not None else "",
            f"amax >= {self.amax_floor:g}" if self.amax_floor is not None else "",
            f"amax of zeros {self.amax_of_zeros:g}" if self.amax_of_zeros is not None else "",
            "amax may be -0" if self.zero_of_any_sign else "",
            f"scale >= {self.scale_floor:g}" if self.scale_floor is not None else "",
        )

    @property
    def _bound(self) -> float:
        """The largest value of ``dtype``."""
        return (torch.finfo if self.dtype.is_floating_point else torch.iinfo)(self.dtype).max

    def _clamp_text(self) -> str:
        if self.clamp is None:
            return "no clamp"
        low, high = self.clamp
        return "clamp" if (low, high) == (-self.qmax, self.qmax) else f"clamp to [{low:g}, {high:g}]"
