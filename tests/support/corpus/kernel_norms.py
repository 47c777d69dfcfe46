# SPDX-License-Identifier: Apache-2.0
"""Norms as models write them, each with the attributes that a kernel takes for the same function.

They stand apart from the rows of the table of patterns.  A kernel is given a factor or computes it, so a function here takes
the factor.  And the attributes are written out, where a fusion would make them of a row's semantic op: a kernel stands below
fusions and is tested without them.

Letters: M rows, K hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from helion_compile.kernels.device.normalize import NormAttrs

__all__ = ["EPS", "NORMS", "WrittenNorm"]

EPS = 1e-6


@dataclass(frozen=True)
class WrittenNorm:
    """``written(x, weight, bias, factor)`` is the norm of ``x`` [M, K]; ``text(dtype)`` are the attributes for that ``x``.

    ``factor`` [M, 1] is what a kernel multiplies or divides by, None to compute it; ``factor_of(x)`` computes it.
    ``add(x, residual)`` gives what the norm reads and the sum that others read.
    """

    written: Callable
    text: Callable[[torch.dtype], str]
    weight: bool = True
    bias: bool = False
    weight_dtype: torch.dtype | None = None  # x's if None
    add: Callable = lambda x, residual: (x + residual, x + residual)
    root: Callable = torch.rsqrt

    def parameters(self, k, dtype, device):
        """Weight and bias [K], or None."""
        generator = torch.Generator().manual_seed(9)
        dtype = self.weight_dtype or dtype
        weight = (1 + 0.1 * torch.randn(k, generator=generator)).to(device, dtype)
        bias = (0.1 * torch.randn(k, generator=generator)).to(device, dtype)
        return weight if self.weight else None, bias if self.bias else None

    def factor_of(self, x):
        x32 = x.float()
        return self.root(x32.pow(2).mean(-1, keepdim=True) + EPS)


def llama(x, weight, _, rstd):
    return weight * (x.float() * rstd).to(x.dtype)


def nn_rms_norm(x, weight, _, rstd):
    return (x.float() * rstd * weight).to(x.dtype)


def gemma(x, weight, _, rstd):
    return (x.float() * rstd * (1.0 + weight.float())).to(x.dtype)


def weightless(x, weight, _, rstd):
    return (x.float() * rstd).to(x.dtype)


def over_root(x, weight, _, root):
    return weight * (x.float() / root).to(x.dtype)


def t5(x, weight, _, rstd):
    return weight * (x.float() * rstd.to(x.dtype)).to(x.dtype)


def moments(x):
    """Variance and mean as torch's LayerNorm is decomposed to compute them."""
    return torch.var_mean(x.float(), -1, correction=0, keepdim=True)


def layer(x, weight, bias, rstd):
    return ((x.float() - moments(x)[1]) * rstd * weight + bias).to(x.dtype)


def layer_cast_then_scale(x, weight, bias, rstd):
    return weight * ((x.float() - moments(x)[1]) * rstd).to(x.dtype) + bias


def granite(x, residual):
    total = x * 0.22 + residual
    return total, total


def vllm(x, residual):
    total = x.float() + residual.float()
    return total, total.to(x.dtype)


class _Layer(WrittenNorm):
    def factor_of(self, x):
        return self.root(moments(x)[0] + EPS)


def _fixed(kind, written, *, text=None, **attributes):
    return kind(written, lambda dtype: text, **attributes)


CAST = NormAttrs(cast_then_scale=True).text
NORMS = {
    "llama": _fixed(WrittenNorm, llama, text=CAST),
    "nn.RMSNorm": _fixed(WrittenNorm, nn_rms_norm, text=NormAttrs().text),
    "gemma": _fixed(WrittenNorm, gemma, text=NormAttrs(weight_offset=1.0).text),
    "weightless": _fixed(WrittenNorm, weightless, text=NormAttrs().text, weight=False),
    "granite": _fixed(WrittenNorm, llama, text=NormAttrs(cast_then_scale=True, residual_multiplier=0.22).text, add=granite),
    "an fp32 weight, rounded with the result": _fixed(
        WrittenNorm, nn_rms_norm, text=NormAttrs().text, weight_dtype=torch.float32
    ),
    "an fp32 weight": _fixed(
        WrittenNorm, llama, text=NormAttrs(cast_then_scale=True, dtype=torch.float32).text, weight_dtype=torch.float32
    ),
    "over the root": _fixed(WrittenNorm, over_root, text=NormAttrs(cast_then_scale=True, root="sqrt").text, root=torch.sqrt),
    "times 1 / root": _fixed(
        WrittenNorm,
        llama,
        text=NormAttrs(cast_then_scale=True, root="reciprocal_sqrt").text,
        root=lambda squared: torch.sqrt(squared).reciprocal(),
    ),
    "t5": WrittenNorm(t5, lambda dtype: NormAttrs(cast_then_scale=True, factor_dtype=dtype).text),
    "layer": _fixed(_Layer, layer, text=NormAttrs("layer").text, bias=True),
    "layer, cast then scale": _fixed(
        _Layer, layer_cast_then_scale, text=NormAttrs("layer", cast_then_scale=True).text, bias=True
    ),
}
# What the norm reads is not of x's dtype, as the sum is not rounded before.
UNROUNDED = _fixed(
    WrittenNorm,
    lambda total, weight, _, rstd: (total * rstd * weight.float()).to(weight.dtype),
    text=NormAttrs(unrounded_sum=True).text,
    add=vllm,
)
