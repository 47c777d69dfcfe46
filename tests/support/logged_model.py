# SPDX-License-Identifier: Apache-2.0
"""A model with a norm whose result is quantised, and its arguments."""

import torch
import torch._inductor.compile_fx

from tests.support.corpus.quantisers import torchao_row

__all__ = ["K", "arguments", "model", "no_autograd_cache"]

K = 64


def model(x, residual, weight):
    """A norm whose result is quantised, and an input that is."""
    total = (x + residual).float()
    norm = weight * (total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
    return *torchao_row(norm), *torchao_row(x)


def arguments(m=8):
    generator = torch.Generator().manual_seed(0)
    return *(torch.randn(m, K, generator=generator).bfloat16() for _ in range(2)), torch.ones(K, dtype=torch.bfloat16)


def no_autograd_cache():
    return torch._functorch.config.patch(enable_autograd_cache=False)
