# SPDX-License-Identifier: Apache-2.0
"""Activation functions inside a kernel, and the same in plain torch.

Numerics.  With ``exact`` each operation is eager PyTorch's on a GPU: libdevice's exp, erf and tanh, and division as IEEE 754
says.  Without it they are Triton's fast ones (2 ulp of fp32 each), and nothing is rounded to the model's dtype on the way: the
steps that Inductor's own code leaves out too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import helion.language as hl
import torch

from helion_compile.kernels.device.attribute_text import Attributes
from helion_compile.kernels.device.rounding import round_to

__all__ = ["FUNCTIONS", "ROUNDINGS", "ActivationAttrs", "activate", "activate_reference"]

_Function = Literal["silu", "silu_sigmoid", "gelu", "gelu_tanh", "relu_squared", "relu", "quick_gelu"]
FUNCTIONS = get_args(_Function)
ROUNDINGS = ("function", "result", "every_step")

HALF_ROOT = math.sqrt(0.5)
QUICK_GELU_FACTOR = 1.702
TANH_FACTOR = math.sqrt(2 / math.pi)
CUBE_FACTOR = 0.044715


@dataclass(frozen=True)
class ActivationAttrs(Attributes):
    """The attributes; ``function`` is as :class:`helion_compile.passes.semantics.ActivationFunction` names it.

    Attributes:
        limit: bounds x from above and ``up`` both ways, before anything else.
        up_offset: added to ``up`` (gpt-oss: 1).
    """

    function: _Function
    limit: float | None = None
    up_offset: float = 0.0


def activate(
    x: torch.Tensor, up: torch.Tensor | None, dtype: torch.dtype, function: str, rounding: str, exact: bool
) -> torch.Tensor:
    """In a kernel: f(``x``), times ``up`` if there is one; fp32 values of ``dtype`` in, fp32 out.

    Args:
        dtype: what the model rounds to.
        function: text of :class:`ActivationAttrs`.
        rounding: what is rounded to ``dtype`` besides the result, with ``exact``: "function" (f(x) before the product),
            "every_step" (each operation), or "result" (nothing else).
    """
    attrs = ActivationAttrs.parse(function)
    steps = exact and rounding == "every_step"
    if attrs.limit is not None:
        x = torch.where(x > attrs.limit, attrs.limit, x)  # NaN is not above it and stays
    values = _exact(x, dtype, attrs.function, steps) if exact else _fast(x, attrs.function)
    if up is not None:
        if attrs.limit is not None:
            up = torch.where(up > attrs.limit, attrs.limit, torch.where(up < -attrs.limit, -attrs.limit, up))
        if attrs.up_offset:
            up = up + attrs.up_offset
            if exact and rounding != "result":
                up = round_to(up, dtype)
        if exact and rounding == "function":
            values = round_to(values, dtype)
        values = values * up
    if exact:
        values = round_to(values, dtype)
    return values


def _fast(x: torch.Tensor, function: str) -> torch.Tensor:
    if function == "gelu":
        return x * 0.5 * (1.0 + torch.erf(x * HALF_ROOT))
    if function == "relu_squared":
        values = torch.where(x < 0.0, 0.0, x)  # NaN is not below 0 and stays
        return values * values
    if function == "relu":
        return torch.where(x <= 0.0, 0.0, x)
    exponent = x
    if function == "quick_gelu":
        exponent = x * QUICK_GELU_FACTOR
    if function == "gelu_tanh":
        # (1 + tanh u) / 2 = 1 / (1 + exp(-2u)), without the cancellation for negative u.
        exponent = (x + x * x * x * CUBE_FACTOR) * (2.0 * TANH_FACTOR)
    return x / (1.0 + torch.exp(-exponent))


def _exact(x: torch.Tensor, dtype: torch.dtype, function: str, steps: bool) -> torch.Tensor:
    if function == "silu":
        values = _step(compute_exp(-x), dtype, steps)
        return _step(divide(x, _step(values + 1.0, dtype, steps)), dtype, steps)
    if function == "silu_sigmoid":
        values = 1.0 + compute_exp(-x)
        return _step(x * _step(divide(torch.ones_like(values), values), dtype, steps), dtype, steps)
    if function == "quick_gelu":
        values = 1.0 + compute_exp(-_step(x * QUICK_GELU_FACTOR, dtype, steps))
        return _step(x * _step(divide(torch.ones_like(values), values), dtype, steps), dtype, steps)
    if function == "relu":
        return torch.where(x <= 0.0, 0.0, x)
    if function == "gelu":
        scaled = _step(x * HALF_ROOT, dtype, steps)
        values = _step(compute_erf(scaled), dtype, steps)
        return _step(_step(x * 0.5, dtype, steps) * _step(values + 1.0, dtype, steps), dtype, steps)
    if function == "gelu_tanh":
        inner = (x + x * x * x * CUBE_FACTOR) * TANH_FACTOR
        values = compute_tanh(inner)
        return x * 0.5 * (values + 1.0)
    values = torch.where(x < 0.0, 0.0, x)
    return values * values


def _step(values: torch.Tensor, dtype: torch.dtype, steps: bool) -> torch.Tensor:
    return round_to(values, dtype) if steps else values


def compute_exp(x: torch.Tensor) -> torch.Tensor:
    """exp as CUDA computes it, where Triton's own is the fast one."""
    return hl.inline_triton("libdevice.exp({0})", (x,), output_like=x)


def compute_erf(x: torch.Tensor) -> torch.Tensor:
    return hl.inline_triton("libdevice.erf({0})", (x,), output_like=x)


def compute_tanh(x: torch.Tensor) -> torch.Tensor:
    return hl.inline_triton("libdevice.tanh({0})", (x,), output_like=x)


def divide(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``left`` / ``right``, correctly rounded, for ``right`` >= 1 and a quotient of at most ``left``; fp32."""
    return hl.inline_asm_elementwise(_DIVIDE, "=f,f,f", [left, right], dtype=torch.float32, is_pure=True, pack=1)


# $0 = $1 / $2: what a division compiles to (a reciprocal with one Newton step, two corrections of the quotient by its exact
# remainder) without the call of a slow path for divisors below 1, which makes long rows spill registers.  Where an operand or
# the quotient is infinite the remainder is NaN, and $1 * (1 / $2) the quotient already.
_DIVIDE = """{
.reg .f32 y, e, n, q, r; .reg .pred p;
rcp.approx.f32 y, $2;
neg.f32 n, $2;
fma.rn.f32 e, n, y, 0f3F800000;
fma.rn.f32 e, e, y, y;
mul.rn.f32 q, $1, e;
fma.rn.f32 r, n, q, $1;
fma.rn.f32 q, r, e, q;
fma.rn.f32 r, n, q, $1;
fma.rn.f32 r, r, e, q;
copysign.f32 r, $1, r;
mul.rn.f32 q, $1, y;
setp.num.f32 p, r, r;
selp.f32 $0, r, q, p;
}"""


def activate_reference(x: torch.Tensor, up: torch.Tensor | None, function: str, rounding: str, exact: bool) -> torch.Tensor:
    """:func:`activate` in plain torch, of ``x`` and ``up`` in the model's dtype; with ``exact`` torch's own operations."""
    attrs = ActivationAttrs.parse(function)
    function, bound = attrs.function, attrs.limit
    wide = x if exact and rounding == "every_step" else x.float()
    if bound is not None:
        wide = wide.clamp(max=bound)
    if function == "silu":
        values = wide / (torch.exp(-wide) + 1)
    elif function == "silu_sigmoid":
        values = wide * torch.sigmoid(wide)
    elif function == "gelu":
        values = (wide * 0.5) * (torch.erf(wide * HALF_ROOT) + 1)
    elif function == "gelu_tanh":
        cube = wide.pow(3) if wide.dtype != torch.float32 else wide * wide * wide
        values = (wide * 0.5) * (torch.tanh((wide + cube * CUBE_FACTOR) * TANH_FACTOR) + 1)
    elif function == "quick_gelu":
        values = wide * torch.sigmoid(wide * QUICK_GELU_FACTOR)
    elif function == "relu":
        values = torch.relu(wide)
    else:
        values = torch.relu(wide).square()
    if up is not None:
        up = up if exact and rounding != "result" else up.float()
        up = up if bound is None else up.clamp(-bound, bound)
        up = up + attrs.up_offset if attrs.up_offset else up
        if exact and rounding == "function":
            values = values.to(x.dtype).float()
        values = values * up.to(values.dtype)
    return (values.to(x.dtype) if exact else values).float()
