# SPDX-License-Identifier: Apache-2.0
"""Quantisers with the attributes that a kernel takes for the same function.

They stand apart from the rows of the table of patterns.  A row tells its semantic op, of which a fusion makes the attributes.
A kernel stands below fusions and is tested without them: here the attributes are written out, so that a fusion that
translates an op wrongly has no share in what its kernel is compared with.  Where a row's function does, it is taken.
Letters: M rows, K elements of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from helion_compile.kernels.device.quantize_attrs import QuantizeAttrs
from tests.support.corpus import int8_quantisers, quantisers

__all__ = ["QUANTISERS", "Quantiser"]

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FP8 = (-448.0, 448.0)
INT8 = (-128.0, 127.0)
FLOOR = 1 / (448.0 * 512.0)


@dataclass(frozen=True)
class Quantiser:
    """``written(x)`` quantises ``x`` [M, K] and gives values, scales and zero points, as far as it has them.

    ``number`` is a static scale, if ``static``, or the upper bound of the largest magnitudes, if ``bounded``: then it is
    ``written(x, number)``.  Otherwise it is None.
    ``text(dtype)`` are the attributes for an ``x`` of that dtype.
    """

    written: Callable
    text: Callable[[torch.dtype], str]
    static: bool = False
    bounded: bool = False

    def number(self, device):
        value = 0.013 if self.static else 2.0 if self.bounded else None
        return None if value is None else torch.tensor([value], device=device)

    def arguments(self, dtype, number):
        """``scale, scale_ub, quantizer`` of a quantising kernel."""
        return number if self.static else None, number if self.bounded else None, self.text(dtype)

    def results(self, x, number):
        results = self.written(x) if number is None else self.written(x, number)
        return results if isinstance(results, tuple) else (results,)


def e5m2(x):
    scale = x.abs().amax(-1, keepdim=True).float() / 57344.0
    return (x.float() / scale).clamp(-57344.0, 57344.0).to(E5M2), scale


def factor(x):
    amax = x.abs().amax(-1, keepdim=True).float().clamp_max(64.0).clamp_min(1e-4)
    return (x.float() * (amax.reciprocal() * 448.0)).clamp(*FP8).to(E4M3), amax / 448.0


def factor_inverse(x):
    factor = x.abs().amax(-1, keepdim=True).float().clamp_min(1e-12).reciprocal() * 448.0
    return (x.float() * factor).clamp(*FP8).to(E4M3), factor.reciprocal()


def int8(x):
    scale = (x.abs().amax(-1, keepdim=True) / 127.0).float()
    return (x.float() / scale).round().clamp(-127.0, 127.0).to(torch.int8), scale


def asymmetric(x):
    x = x.float()
    low, high = x.amin(-1, keepdim=True).clamp_max(0.0), x.amax(-1, keepdim=True).clamp_min(0.0)
    scale = ((high - low) / 255.0).clamp_min(1e-5)
    zero = (-128.0 - (low / scale).round()).clamp(*INT8)
    return ((x / scale).round() + zero).clamp(*INT8).to(torch.int8), scale, zero.to(torch.int8)


def groups(size, layout="row_major", ue8m0=False):
    def written(x):
        parts = x.view(x.size(0), x.size(1) // size, size).float()
        scale = parts.abs().amax(-1).clamp_min(1e-4) / 448.0
        if ue8m0:
            scale = torch.exp2(torch.ceil(torch.log2(scale)))
        q = (parts / scale.unsqueeze(-1)).clamp(*FP8).to(E4M3).view(x.shape)
        if layout == "row_major":
            return q, scale
        step = (x.size(0) + 3) // 4 * 4 if layout == "tma_aligned" else x.size(0)
        return q, torch.empty_strided(scale.shape, (1, step), device=x.device).copy_(scale)

    text = QuantizeAttrs(E4M3, clamp=FP8, group=size, layout=layout, ue8m0=ue8m0, amax_floor=1e-4).text
    return Quantiser(written, lambda dtype: text)


def _fixed(written, dtype, clamp, *, static=False, bounded=False, **attributes):
    text = QuantizeAttrs(dtype, clamp=clamp, **attributes).text
    return Quantiser(written, lambda dtype: text, static, bounded)


QUANTISERS = {
    "torchao": Quantiser(quantisers.torchao_row, lambda dtype: QuantizeAttrs(E4M3, clamp=FP8, scale_dtype=dtype).text),
    "vllm": _fixed(quantisers.vllm_token, E4M3, FP8, use="multiply_reciprocal", scale_floor=FLOOR),
    "plain": _fixed(quantisers.without_clamp, E4M3, None, amax_floor=1e-12),
    "bounded": _fixed(quantisers.vllm_token_bound, E4M3, FP8, use="multiply_reciprocal", scale_floor=FLOOR, bounded=True),
    "e5m2": _fixed(e5m2, E5M2, (-57344.0, 57344.0)),
    "narrow": _fixed(quantisers.narrow_range, E4M3, (-240.0, 240.0), qmax=240.0),
    "divided by a tensor": _fixed(quantisers.over_tensor, E4M3, FP8, division="tensor"),
    "factor": _fixed(factor, E4M3, FP8, use="multiply_factor", amax_ceiling=64.0, amax_floor=1e-4),
    "factor inverse": _fixed(factor_inverse, E4M3, FP8, use="multiply_factor_inverse", amax_floor=1e-12),
    "static": _fixed(quantisers.torchao_static, E4M3, FP8, static=True),
    "static reciprocal": _fixed(quantisers.vllm_static, E4M3, FP8, static=True, use="multiply_reciprocal"),
    "static int8": _fixed(int8_quantisers.int8_static, torch.int8, INT8, static=True),
    "int8": Quantiser(int8, lambda dtype: QuantizeAttrs(torch.int8, clamp=(-127.0, 127.0), scale_dtype=dtype).text),
    "int8 asymmetric": _fixed(asymmetric, torch.int8, INT8, zero_point=True, scale_floor=1e-5),
    "groups of 128": groups(128),
    "groups of 64, column-major": groups(64, "column_major"),
    "groups of 128, TMA-aligned, ue8m0": groups(128, "tma_aligned", ue8m0=True),
}
