# SPDX-License-Identifier: Apache-2.0
"""Products of quantised matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from helion_compile.passes.ir.values import dtype_name
from helion_compile.passes.semantics.base import SemanticOp, text
from helion_compile.passes.semantics.quantize import Granularity

__all__ = ["Matmul"]

_OF_A = {Granularity.TOKEN: "row", Granularity.TENSOR: "tensor", Granularity.GROUP: "block"}
_OF_B = {Granularity.TOKEN: "column", Granularity.TENSOR: "tensor", Granularity.GROUP: "block"}
_LIBRARIES = {
    "cutlass": "by CUTLASS",
    "deepgemm": "by DeepGEMM",
    "triton": "by Triton",
    "torchao": "by torchao",
    "fbgemm": "by FBGEMM",
}


@dataclass(frozen=True, kw_only=True)
class Matmul(SemanticOp):
    """Scaled matrix product ``(a * a_scale) @ (b * b_scale) + bias``, rounded once to ``dtype``.

    fp8: the products are summed in fp32; with ``fast_accum`` the hardware may sum them with fewer bits.  The scales are
    fp32 (``scale_dtype``), and where one belongs to a row or a column it is applied to the sum.

    int8: the products are summed in int32, which is exact.  The sum is converted to ``scale_dtype`` and multiplied by both
    scales, ``a_scale`` first if ``a_scale_first``, and the bias is added; each step gives ``scale_dtype``, and the last is
    converted to ``dtype``.  The product with the first scale is rounded to ``between_dtype``, if set, before the second.
    With ``zero_points``, ``zero * zero_sums`` is taken off the sum before, in int32; ``zero_sums`` alone where it holds the
    product already.

    Inputs: ``a`` [M, K] and ``b`` [K, N] of ``operands``, or ``b`` [N, K] if ``b_is_rows``; ``a_scale`` [M, 1] and
    ``b_scale`` [1, N] or [N, 1] (TOKEN), one element (TENSOR) or one for each block (GROUP); ``bias`` [N] if ``bias``; with
    ``zero_points``, int32 ``zero_sums`` [1, N], the sums of b's columns, and ``zero`` [M, 1] if each row has its own.
    Outputs: ``out`` [M, N] of ``dtype``.

    Of blocks, each [1, 128] of ``a`` has a scale in ``a_scale`` [M, ceil(K / 128)], and each [128, 128] of ``b`` one in
    ``b_scale``, which lies as ``b`` does: [ceil(K / 128), ceil(N / 128)], or turned if ``b_is_rows``.  A product of other
    blocks has other shapes.

    The order of the sum is that of ``library``: "torch", "cutlass", "deepgemm" and "triton" for vLLM's operators of these
    names, "torchao" and "fbgemm" for their kernels of blocks.
    """

    dtype: torch.dtype
    operands: torch.dtype = torch.float8_e4m3fn
    a_scales: Granularity = Granularity.TOKEN  # a row of a
    b_scales: Granularity = Granularity.TOKEN  # a column of b
    scale_dtype: torch.dtype = torch.float32
    a_scale_first: bool = False
    between_dtype: torch.dtype | None = None
    b_is_rows: bool = False
    zero_points: bool = False  # of a
    bias: bool = False
    fast_accum: bool = False
    library: str = "torch"

    def __str__(self) -> str:
        kinds = _OF_A[self.a_scales], _OF_B[self.b_scales]
        return text(
            "Matmul",
            dtype_name(self.operands) if self.operands != torch.float8_e4m3fn else "",
            f"scaled by {kinds[0]}" if kinds[0] == kinds[1] else f"scaled by {kinds[0]} and {kinds[1]}",
            f"{dtype_name(self.scale_dtype)} scales" if self.scale_dtype != torch.float32 else "",
            f"rounded to {dtype_name(self.between_dtype)} between scales" if self.between_dtype else "",
            dtype_name(self.dtype),
            "zero points" if self.zero_points else "",
            "bias" if self.bias else "",
            "fast accumulation" if self.fast_accum else "",
            _LIBRARIES.get(self.library, ""),
        )
