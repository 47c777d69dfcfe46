"""How values become 8 bits: the attributes that every quantising kernel takes, as one line of text.

Letters: ``M`` rows (tokens), ``K`` elements of a row.
"""

from __future__ import annotations

import torch

from helion_compile.kernels.device.attribute_text import dtype_named, read, write

__all__ = ["FORMAT_MAX", "Quantization", "group_of", "new_results", "quantization", "scales_like"]

# Largest finite magnitude of a format; of int8 the one that has a negative.
FORMAT_MAX = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0, torch.int8: 127.0}


def quantization(
    dtype: torch.dtype,
    *,
    qmax: float | None = None,
    clamp: tuple[float, float] | None = None,
    use: str = "divide",
    scale_dtype: torch.dtype = torch.float32,
    division: str = "number",
    amax_ceiling: float | None = None,
    amax_floor: float | None = None,
    scale_floor: float | None = None,
    group: int | None = None,
    ue8m0: bool = False,
    layout: str = "row_major",
    zero_point: bool = False,
) -> str:
    """The text of these attributes.

    Args:
        dtype: of the result: float8_e4m3fn, float8_e5m2 or int8.
        qmax: the scale is the largest magnitude of what shares it, divided by this; by default the format's largest value.
        clamp: bounds of the scaled values.  Without, what exceeds the range of e4m3 becomes NaN, as in torch's cast.
        use: "divide" (x / scale), "reciprocal" (x * (1 / scale)), "factor" (x * ((1 / amax) * qmax), with the scale apart) or
            "factor_inverse" (the same, with 1 / factor as scale).
        scale_dtype: dtype in which the model computes ``amax / qmax``, before it converts the scale to fp32.
        division: of amax by qmax as a "number", which eager CUDA multiplies with the fp32 reciprocal of, as a "tensor", or
            by multiplying with its "reciprocal".
        amax_ceiling, amax_floor, scale_floor: bounds of the largest magnitude, the upper first, and of the scale.
        group: neighbouring elements of a row that share a scale; all of the row by default.
        ue8m0: the scale is rounded up to a power of two, before its floor.
        layout: of scales [M, K / group]: "row_major", "column_major" (strides 1, M) or "tma_aligned" (strides 1, M rounded
            up to 4, which is 16 bytes).
        zero_point: int8, asymmetric: ``scale = (max(x, 0) - min(x, 0)) / qmax`` with ``qmax = high - low``, and
            ``low - round(min(x, 0) / scale)``, clamped, is added to the rounded quotient before its clamp.
    """
    return write(
        str(dtype).removeprefix("torch."),
        group=group,
        zero_point=zero_point,
        qmax=None if qmax == FORMAT_MAX.get(dtype) or zero_point else qmax,  # of a zero point it is the clamp's width
        clamp=clamp,
        use=None if use == "divide" else use,
        scale_dtype=None if scale_dtype == torch.float32 else scale_dtype,
        division=None if division == "number" else division,
        amax_ceiling=amax_ceiling,
        amax_floor=amax_floor,
        scale_floor=scale_floor,
        ue8m0=ue8m0,
        layout=None if layout == "row_major" else layout,
    )


_FIELDS = (
    *("group", "zero_point", "qmax", "clamp", "use", "scale_dtype", "division"),
    *("amax_ceiling", "amax_floor", "scale_floor", "ue8m0", "layout"),
)


class Quantization:
    """What a text of :func:`quantization` says; its parameters as attributes."""

    # Written out, where a dataclass would be shorter: the code that it generates differs between versions of Python, and
    # would put another version of the kernel into the config tables.
    def __init__(self, text: str) -> None:
        kind, fields = read(text, *_FIELDS)
        self.dtype = dtype_named(kind)
        self.group = int(fields["group"]) if "group" in fields else None
        self.zero_point = "zero_point" in fields
        low, _, high = fields.get("clamp", "").partition(":")
        self.clamp = (float(low), float(high)) if high else None
        self.qmax = _number(fields, "qmax") or FORMAT_MAX.get(self.dtype, 0.0)
        self.use = fields.get("use", "divide")
        self.scale_dtype = dtype_named(fields.get("scale_dtype", "float32"))
        self.division = fields.get("division", "number")
        self.amax_ceiling = _number(fields, "amax_ceiling")
        self.amax_floor = _number(fields, "amax_floor")
        self.scale_floor = _number(fields, "scale_floor")
        self.ue8m0 = "ue8m0" in fields
        self.layout = fields.get("layout", "row_major")

    def refuse(self, hidden_size: int, exact: bool) -> str | None:
        """Why no kernel computes this for rows of ``hidden_size`` elements, as a sentence, or None."""
        largest = FORMAT_MAX.get(self.dtype)
        if largest is None:
            return f"the values become {self.dtype}; the kernel makes {', '.join(map(str, FORMAT_MAX))}"
        low, high = self.clamp or (0.0, 0.0)
        if low < -largest - (self.dtype == torch.int8) or high > largest:
            return f"the values are clamped to [{low:g}, {high:g}], beyond the range of {self.dtype}"
        if self.clamp is None and self.dtype != torch.float8_e4m3fn:
            return f"nothing bounds the values before the cast to {self.dtype}; clamped to ±{largest:g} the kernel takes them"
        if self.group is not None and (self.group < 16 or self.group & (self.group - 1) or hidden_size % self.group):
            return (
                f"a scale is shared by {self.group} of {hidden_size} values; the kernel takes groups of a power of two from "
                f"16 on that divides the row"
            )
        if self.group is not None and self.zero_point:
            return f"the quantiser has a zero point for each {self.group} values; the kernel takes one for each token"
        if self.zero_point and self.dtype != torch.int8:
            return f"the quantiser to {self.dtype} has a zero point; the kernel knows one for torch.int8"
        if self.zero_point and exact and self.scale_dtype != torch.float32:
            return (
                f"the zero point comes from a division in {self.scale_dtype}, which the kernel makes in fp32; use "
                f"numerics='default'"
            )
        if exact and self.scale_dtype not in (torch.bfloat16, torch.float16, torch.float32):
            return f"the scale is computed in {self.scale_dtype}, which the kernel keeps only to fp32; use numerics='default'"
        return None


def _number(fields: dict[str, str], name: str) -> float | None:
    return float(fields[name]) if name in fields else None


def scales_like(x: torch.Tensor, text: str) -> torch.Tensor:
    """Memory for the fp32 scales of the rows of ``x`` [M, K]: [M, 1], or [M, K / group] laid out as the text says."""
    how = Quantization(text)
    rows = x.size(0)
    if how.group is None:
        return torch.empty([rows, 1], dtype=torch.float32, device=x.device)
    groups = x.size(1) // how.group
    step = (rows + 3) // 4 * 4 if how.layout == "tma_aligned" else rows
    strides = [groups, 1] if how.layout == "row_major" else [1, step]
    return torch.empty_strided([rows, groups], strides, dtype=torch.float32, device=x.device)


def group_of(text: str) -> int | None:
    """How many neighbouring values share a scale; None for a whole row."""
    return Quantization(text).group


def new_results(
    x: torch.Tensor, scale: torch.Tensor | None, text: str
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Memory for ``x`` [M, K] quantised, its scales unless ``scale`` is the one, and its zero points if there are any."""
    how = Quantization(text)
    q = torch.empty([x.size(0), x.size(1)], dtype=how.dtype, device=x.device)
    scales = scales_like(x, text) if scale is None else None
    zero = torch.empty([x.size(0), 1], dtype=torch.int8, device=x.device) if how.zero_point and scale is None else None
    return q, scales, zero
