"""Norms over rows: their attributes as one line of text, and their arithmetic in kernels and in plain torch.

Letters: ``M`` rows (tokens), ``K`` hidden size.  In kernels rows are [M, K], or [M, K / group, group] where groups share a
scale later on.

Numerics.  With ``exact`` every rounding step of the spelled form is kept, so that only the order of summation in the means can
differ from eager PyTorch.  Without it everything stays in fp32, as in the code that Inductor makes of the same chain.
"""

from __future__ import annotations

import torch

from helion_compile.kernels.device.attribute_text import dtype_named, read, write
from helion_compile.kernels.device.division import divide_rows, reciprocal_of, root_of
from helion_compile.kernels.device.rounding import rounded

__all__ = ["Normalization", "add_residual", "norm_like", "normalization", "normalize_reference", "normalize_rows"]


def normalization(
    kind: str = "rms",
    *,
    cast_then_scale: bool = False,
    dtype: torch.dtype | None = None,
    root: str = "rsqrt",
    factor_dtype: torch.dtype = torch.float32,
    weight_offset: float = 0.0,
    residual_multiplier: float = 1.0,
    unrounded_sum: bool = False,
) -> str:
    """The text of these attributes.

    Args:
        kind: "rms", x / sqrt(mean(x²) + eps), or "layer", the same of x - mean(x).
        cast_then_scale: whether the model rounds to ``x``'s dtype before the weight (Llama) or after it (nn.RMSNorm).
        dtype: of the norm's result, ``x``'s by default.
        root: how the root of v = mean + eps divides: "rsqrt" (x * rsqrt(v)), "sqrt" (x / sqrt(v)) or "reciprocal_sqrt"
            (x * (1 / sqrt(v))).
        factor_dtype: to which that factor, or divisor, is rounded (T5: bf16).
        weight_offset: added to the weight in fp32 (Gemma: 1).
        residual_multiplier: ``x`` is multiplied by it before the residual is added (Granite).
        unrounded_sum: the norm reads the sum with the residual before it is rounded (vLLM).
    """
    return write(
        kind,
        cast_then_scale=cast_then_scale,
        dtype=dtype,
        root=None if root == "rsqrt" else root,
        factor_dtype=None if factor_dtype == torch.float32 else factor_dtype,
        weight_offset=weight_offset or None,
        residual_multiplier=None if residual_multiplier == 1 else residual_multiplier,
        unrounded_sum=unrounded_sum,
    )


_FIELDS = (
    *("cast_then_scale", "dtype", "root", "factor_dtype", "weight_offset"),
    *("residual_multiplier", "unrounded_sum"),
)


class Normalization:
    """What a text of :func:`normalization` says; its parameters as attributes."""

    # Written out, where a dataclass would be shorter, as kernels.quantization says.
    def __init__(self, text: str) -> None:
        self.kind, fields = read(text, *_FIELDS)
        self.cast_then_scale = "cast_then_scale" in fields
        self.dtype = dtype_named(fields["dtype"]) if "dtype" in fields else None
        self.root = fields.get("root", "rsqrt")
        self.factor_dtype = dtype_named(fields.get("factor_dtype", "float32"))
        self.weight_offset = float(fields.get("weight_offset", 0.0))
        self.residual_multiplier = float(fields.get("residual_multiplier", 1.0))
        self.unrounded_sum = "unrounded_sum" in fields

    def refuse(self) -> str | None:
        """Why no kernel computes this, as a sentence, or None."""
        if self.kind not in ("rms", "layer"):
            return f"the norm is {self.kind!r}; the kernel knows 'rms' and 'layer'"
        if self.root not in ("rsqrt", "sqrt", "reciprocal_sqrt"):
            return f"the norm's root is {self.root!r}; the kernel knows 'rsqrt', 'sqrt' and 'reciprocal_sqrt'"
        return None


def norm_like(x: torch.Tensor, text: str) -> torch.Tensor:
    """Memory for the norm of ``x`` [M, K]."""
    return torch.empty([x.size(0), x.size(1)], dtype=Normalization(text).dtype or x.dtype, device=x.device)


def add_residual(
    values: torch.Tensor, residual: torch.Tensor, dtype: torch.dtype, norm: str, exact: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """In a kernel: what the norm of ``values * residual_multiplier + residual`` reads, fp32, and the sum in ``dtype``."""
    how = Normalization(norm)
    if how.residual_multiplier != 1.0:
        values = values * how.residual_multiplier
        if exact:
            values = rounded(values, dtype)
    values = values + residual
    total = values.to(dtype)
    return rounded(values, dtype) if exact and not how.unrounded_sum else values, total


def normalize_rows(
    values: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    dtype: torch.dtype,
    norm: str,
    exact: bool,
) -> torch.Tensor:
    """In a kernel: the norm of ``values``, fp32; ``weight`` and ``bias`` are fp32 that broadcasts, ``dtype`` is x's."""
    how = Normalization(norm)
    if how.kind == "layer":
        # From the row in registers: the mean of squares minus the squared mean would cancel.
        values = values - _mean(values)
    values = _over_root(values, _mean(values * values) + eps, how, exact)
    if weight is not None:
        if how.cast_then_scale and exact:
            values = rounded(values, dtype)
        values = values * (weight + how.weight_offset if how.weight_offset else weight)
    if bias is not None:
        if how.cast_then_scale and exact:
            values = rounded(values, how.dtype or dtype)
        values = values + bias
    return rounded(values, how.dtype or dtype) if exact else values


def _over_root(values: torch.Tensor, squared: torch.Tensor, how: Normalization, exact: bool) -> torch.Tensor:
    if how.root == "rsqrt" or not exact:
        factor = torch.rsqrt(squared)
    else:
        factor = root_of(squared)
        if how.root == "sqrt":
            return divide_rows(values, rounded(factor, how.factor_dtype))
        factor = reciprocal_of(factor)
    return values * (rounded(factor, how.factor_dtype) if exact else factor)


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Of each row, whether or not it is cut into groups."""
    if values.dim() == 2:
        return torch.mean(values, dim=-1, keepdim=True)
    return torch.mean(torch.mean(values, dim=-1, keepdim=True), dim=-2, keepdim=True)


def normalize_reference(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    eps: float,
    norm: str,
    exact: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The norm of ``x`` (+ ``residual``) in plain torch, fp32 [M, K], and the rounded sum if there is a residual."""
    how = Normalization(norm)
    dtype = how.dtype or x.dtype

    def maybe_rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return values.to(dtype).float() if exact else values

    values, total = x.float(), None
    if residual is not None:
        if how.residual_multiplier != 1.0:
            values = maybe_rounded(values * how.residual_multiplier, x.dtype)
        values = values + residual.float()
        total = values.to(x.dtype)
        if not how.unrounded_sum:
            values = maybe_rounded(values, x.dtype)
    if how.kind == "layer":
        # As torch's LayerNorm is decomposed, in its order of summation; models that write their own sum twice.
        variance, mean = torch.var_mean(values, -1, correction=0, keepdim=True)
        values, squared = values - mean, variance + eps
    else:
        squared = values.pow(2).mean(-1, keepdim=True) + eps
    if how.root == "sqrt":
        values = values / maybe_rounded(torch.sqrt(squared), how.factor_dtype)
    else:
        factor = torch.rsqrt(squared) if how.root == "rsqrt" else torch.sqrt(squared).reciprocal()
        values = values * maybe_rounded(factor, how.factor_dtype)
    if weight is not None:
        if how.cast_then_scale:
            values = maybe_rounded(values, x.dtype)
        weight = weight.float()
        values = values * (weight + how.weight_offset if how.weight_offset else weight)
    if bias is not None:
        if how.cast_then_scale:
            values = maybe_rounded(values, dtype)
        values = values + bias.float()
    return maybe_rounded(values, dtype), total
