"""``quant``: dynamic symmetric fp8 quantisation, one scale a row; and its arithmetic, shared by every kernel that quantises.

Letters: ``M`` rows (tokens), ``K`` elements of a row.

Numerics.  With ``exact`` every rounding step of the spelled form is kept: bit for bit what eager PyTorch gives on a GPU (NaNs
are NaN, of either sign).  Without it the scale is not rounded to the model's dtype on the way and the division is by the fast
reciprocal (3 ulp of fp32): the steps that Inductor's own fusion of the same code leaves out too.
"""

from __future__ import annotations

import helion.language as hl
import torch

from helion_compile.case import Case
from helion_compile.kernel import kernel
from helion_compile.kernels.division import divide_rows, divide_rows_fast, reciprocal_of
from helion_compile.kernels.rounding import rounded
from helion_compile.kernels.rows import default_config, dtype_of, refuse_rows

__all__ = ["quant", "quantize_rows", "quantize_rows_reference"]

FP8_MAX = 448.0  # largest finite float8_e4m3fn
FP8_OVERFLOW = 464.0  # torch's cast makes NaN of what is above, midway to the next step; Triton's cast saturates


def amax_of_rows(values: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of each row, NaN if the row holds one.  ``values`` [M, K] fp32 -> [M, 1] fp32.

    As integers, the bits of non-negative floats order like the floats, with NaN above infinity.  A maximum over integers
    keeps NaN, which one over floats drops on a GPU unless it is the slower, NaN-propagating kind.
    """
    bits = torch.abs(values).view(torch.int32)
    return torch.amax(bits, dim=-1, keepdim=True).view(torch.float32)


def quantize_rows(
    values: torch.Tensor,
    scale_dtype: torch.dtype,
    use: str,
    clamp: bool,
    amax_floor: float | None,
    scale_floor: float | None,
    exact: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """In a kernel: ``values`` [M, K] fp32 -> fp8 [M, K] and fp32 scales [M, 1].  Arguments as for :func:`quant`."""
    amax = amax_of_rows(values)
    if amax_floor is not None:
        # Through a comparison that NaN fails, as torch.clamp_min lets NaN through.
        amax = torch.where(amax < amax_floor, amax_floor, amax)
    # Eager CUDA divides by a Python number by multiplying with its fp32 reciprocal.
    scale = amax * (1.0 / FP8_MAX)
    if exact:
        scale = rounded(scale, scale_dtype)
    if scale_floor is not None:
        scale = torch.where(scale < scale_floor, scale_floor, scale)
    if use == "divide":
        values = divide_rows(values, scale) if exact else divide_rows_fast(values, scale)
    else:
        values = values * (reciprocal_of(scale) if exact else 1.0 / scale)
    if not clamp:
        values = torch.where(torch.abs(values) > FP8_OVERFLOW, float("nan"), values)
    return values.to(torch.float8_e4m3fn), scale


def quantize_rows_reference(
    values: torch.Tensor,
    scale_dtype: torch.dtype,
    use: str,
    clamp: bool,
    amax_floor: float | None,
    scale_floor: float | None,
    exact: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`quantize_rows` in plain torch; on the GPU its ``exact`` form is eager's own arithmetic."""
    amax = values.abs().amax(dim=-1, keepdim=True)
    if amax_floor is not None:
        amax = amax.clamp_min(amax_floor)
    scale = (amax / FP8_MAX).to(scale_dtype).float() if exact else amax / FP8_MAX
    if scale_floor is not None:
        scale = scale.clamp_min(scale_floor)
    values = values / scale if use == "divide" else values * scale.reciprocal()
    if clamp:
        values = values.clamp(-FP8_MAX, FP8_MAX)
    return values.to(torch.float8_e4m3fn), scale


def _reference(x, scale_dtype, use, clamp, amax_floor, scale_floor, exact):
    return quantize_rows_reference(x.float(), scale_dtype, use, clamp, amax_floor, scale_floor, exact)


def _case(x, *_):
    return Case(hidden_size=x.size(-1), num_tokens=x.size(0), dtype=x.dtype)


def _refuse(x, scale_dtype, use, *_):
    return refuse_rows(x=x)


def _inputs(case, device):
    x = torch.randn(case["num_tokens"], case["hidden_size"], device=device).to(dtype_of(case))
    return x, torch.bfloat16, "divide", True, None, None, False


def _shapes(layer):
    """Inputs of the linears that no norm precedes, and of the others where the norm has to stay."""
    return [{"hidden_size": k} for k in (layer.attention_size, layer.intermediate_size, layer.hidden_size)]


@kernel(
    reference=_reference,
    case=_case,
    refuse=_refuse,
    default_config=default_config,
    inputs=_inputs,
    shapes=_shapes,
)
def quant(
    x: torch.Tensor,
    scale_dtype: hl.constexpr,
    use: hl.constexpr,
    clamp: hl.constexpr,
    amax_floor: hl.constexpr,
    scale_floor: hl.constexpr,
    exact: hl.constexpr,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise each row of ``x`` to fp8 e4m3 with its own scale, reading it once.

    Args:
        x: [M, K] bf16, fp16 or fp32, last dimension contiguous.
        scale_dtype: dtype in which the model computes ``amax / 448``, before it converts the scale to fp32.
        use: "divide" (x / scale) or "reciprocal" (x * (1 / scale)).
        clamp: whether the model clamps to ±448 before the cast; without, what exceeds the range becomes NaN.
        amax_floor, scale_floor: lower bounds of the row's maximum and of its scale, or None.
        exact: keep every rounding step of the model (see the module's text).

    Returns:
        fp8 [M, K], and fp32 scales [M, 1].
    """
    m, k = x.size()
    k = hl.specialize(k)
    q = torch.empty([m, k], dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty([m, 1], dtype=torch.float32, device=x.device)
    for rows in hl.tile(m):
        values = x[rows, :].to(torch.float32)
        q[rows, :], scale[rows, :] = quantize_rows(values, scale_dtype, use, clamp, amax_floor, scale_floor, exact)
    return q, scale
