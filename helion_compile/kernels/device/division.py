# SPDX-License-Identifier: Apache-2.0
"""Division by a number that a row shares: one division a row, and products.

A fp32 ``/`` in Triton is the GPU's approximate one (2 ulp); the correctly rounded instruction sequence has a slow path.
For kernels whose result has to be eager PyTorch's bit for bit, one correctly rounded reciprocal a row and two refinements
of each quotient do; for the others the product with the approximate reciprocal.
"""

from __future__ import annotations

import helion.language as hl
import torch

__all__ = ["divide_rows", "divide_rows_fast", "compute_reciprocal", "compute_sqrt"]

TINY = 2.0**-100  # below it a reciprocal or a remainder could leave the normal range of fp32
LIFT = 2.0**64  # exact to multiply by, and enough to bring the smallest fp32 above TINY


def compute_reciprocal(x: torch.Tensor) -> torch.Tensor:
    """1 / ``x``, correctly rounded; fp32."""
    return hl.inline_triton("tl.div_rn(tl.full({0}.shape, 1.0, tl.float32), {0})", (x,), output_like=x)


def compute_sqrt(x: torch.Tensor) -> torch.Tensor:
    """The square root of ``x``, correctly rounded; fp32."""
    return hl.inline_triton("tl.sqrt_rn({0})", (x,), output_like=x)


def divide_rows(values: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    """``values`` [M, K] / ``divisor`` [M, 1], correctly rounded; fp32.

    With y = 1/b correctly rounded and q within one ulp of a/b, q + (a - b q) y rounds to the correctly rounded a/b (Markstein,
    "Computation of elementary functions on the IBM RISC System/6000 processor", 1990).  a·y is within 1.5 ulp, so it takes one
    step to get there and another to finish.  Where the reciprocal is zero or infinite (divisor infinite, zero or NaN), or a·y
    is not finite, a·y is the quotient already.
    """
    lift = torch.where(divisor < TINY, LIFT, 1.0)
    divisor = divisor * lift
    arguments = [values, lift, divisor, compute_reciprocal(divisor)]
    return hl.inline_asm_elementwise(_DIVIDE, "=f,f,f,f,f", arguments, dtype=torch.float32, is_pure=True, pack=1)


def divide_rows_fast(values: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    """``values`` [M, K] / ``divisor`` [M, 1], within 3 ulp; fp32.

    One division a row; one an element costs what hides behind memory in a quantiser alone, not behind a norm (H200, K=4096:
    27.3 -> 26.4 µs at M=8192).  Below 2^-128 a divisor has no finite reciprocal, so small ones are lifted first.
    """
    lift = torch.where(divisor < TINY, LIFT, 1.0)
    return values * lift * (1.0 / (divisor * lift))


# $0 = $1 * $2 / $3, with $4 = 1 / $3.  In assembly for the fused multiply-adds, and as one operation because in pieces it led
# Triton 3.6 to layouts in which every thread holds the whole row, and ptxas to minutes.
_DIVIDE = """{
.reg .f32 a, q, r, n; .reg .pred p;
mul.rn.f32 a, $1, $2;
mul.rn.f32 q, a, $4;
neg.f32 n, q;
fma.rn.f32 r, n, $3, a;
fma.rn.f32 r, r, $4, q;
neg.f32 n, r;
fma.rn.f32 n, n, $3, a;
fma.rn.f32 r, n, $4, r;
copysign.f32 r, a, r;
setp.gt.f32 p, $4, 0f00000000;
setp.lt.and.f32 p, $4, 0f7F800000, p;
abs.f32 n, q;
setp.lt.and.f32 p, n, 0f7F800000, p;
selp.f32 $0, r, q, p;
}"""
