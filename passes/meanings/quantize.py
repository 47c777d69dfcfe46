"""Quantisation of activations."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch

from passes.meanings.base import Meaning, text
from passes.values import dtype_name

__all__ = ["Granularity", "Quantize", "ScaleFormat", "ScaleLayout", "ScaleUse"]


class ScaleUse(enum.Enum):
    """How the values are brought to the quantised range."""

    DIVIDE = "divide"  # x / scale
    MULTIPLY_RECIPROCAL = "multiply by reciprocal"  # x * (1 / scale)


class Granularity(enum.Enum):
    """What shares a scale."""

    TOKEN = "a token"  # a row: scale [..., 1]
    GROUP = "a group"  # `group` neighbouring values of a row: scale [..., K / group]
    TENSOR = "a tensor"  # everything: scale of one element


class ScaleFormat(enum.Enum):
    """What values a scale can take."""

    FP32 = "fp32"
    UE8M0 = "ue8m0"  # rounded up to a power of two, kept as fp32


class ScaleLayout(enum.Enum):
    """How the scales [M, K / group] lie in memory; part of the meaning, as block-scaled products read one of them."""

    ROW_MAJOR = "row-major"
    COLUMN_MAJOR = "column-major"  # strides (1, M)
    TMA_ALIGNED = "column-major, TMA-aligned"  # strides (1, M rounded up to 16 bytes)


@dataclass(frozen=True, kw_only=True)
class Quantize(Meaning):
    """Quantisation of ``x`` to 8 bits.

    Dynamic and symmetric: ``amax = max |x|`` over what shares a scale, exact, bounded above by ``scale_ub`` (an input)
    if set; ``scale = amax / qmax``, computed and rounded in ``scale_dtype`` and then converted to fp32; the floors bound
    ``amax`` and the scale from below; the values, in fp32, are divided by the fp32 scale (see ``use``), rounded half to
    even if ``dtype`` is an integer, clamped if ``clamp``, and cast to ``dtype``.

    With ``zero_point`` (int8): ``scale = (max(x, 0) - min(x, 0)) / (high - low)`` with ``low, high = clamp``, and
    ``zero = low - round(min(x, 0) / scale)``, clamped, is added to the rounded quotient before its clamp.

    Static (not ``dynamic``): the scale is an input, and ``qmax`` is the bound of the format.

    Inputs: ``x`` [..., K]; ``scale_ub``, fp32 of one element, if ``scale_ub``; ``scale``, fp32 of one element, if static.
    Outputs: ``q`` [..., K] of ``dtype``; if dynamic, ``scale`` fp32 as ``granularity`` says; ``zero`` [..., 1] int8 if
    ``zero_point``.
    """

    x_dtype: torch.dtype
    dtype: torch.dtype
    qmax: float
    granularity: Granularity = Granularity.TOKEN
    group: int | None = None  # values that share a scale, if `granularity` is GROUP
    dynamic: bool = True
    zero_point: bool = False
    scale_dtype: torch.dtype
    scale_format: ScaleFormat = ScaleFormat.FP32
    scale_layout: ScaleLayout = ScaleLayout.ROW_MAJOR
    scale_ub: bool = False
    use: ScaleUse
    clamp: tuple[float, float] | None
    amax_floor: float | None = None  # in amax's unit, applied before the division by qmax
    scale_floor: float | None = None  # in the scale's unit, applied after it

    def __str__(self) -> str:
        kind = "" if self.dynamic else "static "
        shared = f"{self.granularity.value} of {self.group}" if self.group else self.granularity.value
        layout = self.scale_layout.value if self.scale_layout is not ScaleLayout.ROW_MAJOR else ""
        return text(
            "Quantize",
            f"{dtype_name(self.x_dtype)} to {kind}{dtype_name(self.dtype)} {shared}",
            "zero point" if self.zero_point else "",
            f"{dtype_name(self.scale_dtype)} scale",
            self.scale_format.value if self.scale_format is not ScaleFormat.FP32 else "",
            f"scales {layout}" if layout else "",
            self.use.value,
            self._clamp_text(),
            "amax <= scale_ub" if self.scale_ub else "",
            f"amax >= {self.amax_floor:g}" if self.amax_floor is not None else "",
            f"scale >= {self.scale_floor:g}" if self.scale_floor is not None else "",
        )

    def _clamp_text(self) -> str:
        if self.clamp is None:
            return "no clamp"
        low, high = self.clamp
        return "clamp" if (low, high) == (-self.qmax, self.qmax) else f"clamp to [{low:g}, {high:g}]"
