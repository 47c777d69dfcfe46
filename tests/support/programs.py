# SPDX-License-Identifier: Apache-2.0
"""What most tests of patterns build their programs of: functions of the corpus, a product, and its weights."""

from __future__ import annotations

import torch

from tests.support.corpus import norms
from tests.support.corpus.norms import functional_rms as functional_norm
from tests.support.corpus.norms import llama as llama_norm
from tests.support.corpus.norms import olmo2 as olmo_norm
from tests.support.corpus.norms import squeezed as squeezed_norm
from tests.support.corpus.norms import t5 as t5_norm
from tests.support.tensors import tensor

__all__ = [
    "E4M3",
    "EPS",
    "K",
    "flat_scale_quantize",
    "functional_norm",
    "llama_norm",
    "matmul",
    "olmo_norm",
    "squeezed_norm",
    "t5_norm",
    "tensor",
    "weightless_norm",
    "weights",
]

E4M3 = torch.float8_e4m3fn
EPS = norms.EPS
K = 64


def weightless_norm(x, weight):
    return norms.weightless(x)


# Quantisers: x [..., K] -> (q fp8 [..., K], scale fp32 [..., 1])


def flat_scale_quantize(x):
    """A scale without the last dimension, and clamp from below and above apart."""
    x32 = x.float()
    scale = x32.abs().amax(-1) / 448
    value = x32 / scale[..., None]
    return torch.clamp_min(torch.clamp_max(value, 448.0), -448.0).to(E4M3), scale


def matmul(q, scale, b, b_scale, bias=None):
    """(q [..., K], scale [..., 1] or [...], b [N, K], b_scale [N, 1]) -> bf16 [M, N]."""
    rows = q.reshape(-1, q.shape[-1])
    return torch._scaled_mm(
        rows, b.t(), scale_a=scale.reshape(-1, 1), scale_b=b_scale.t(), bias=bias, out_dtype=torch.bfloat16
    )


def weights(n: int = 48, k: int = K) -> tuple[torch.Tensor, torch.Tensor]:
    """b [N, K] fp8 and b_scale [N, 1]."""
    return tensor(n, k, seed=7).to(E4M3), tensor(n, 1, dtype=torch.float32, seed=8).abs()
