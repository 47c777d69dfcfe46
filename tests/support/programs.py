"""Small functions that write norms and products as real models do; quantisers are in the corpus."""

from __future__ import annotations

import torch
import torch.nn.functional as F

E4M3 = torch.float8_e4m3fn
EPS = 1e-5
K = 64


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Norms: (x [..., K], weight [K]) -> [..., K]


def llama_norm(x, weight):
    x32 = x.to(torch.float32)
    x32 = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5)
    return weight * x32.to(x.dtype)


def olmo_norm(x, weight):
    x32 = x.to(torch.float32)
    return (weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5))).to(x.dtype)


def functional_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-5)


def squeezed_norm(x, weight):
    """Statistics without keepdim, x * x instead of pow, operands the other way round."""
    x32 = x.float()
    rstd = torch.rsqrt(1e-5 + (x32 * x32).mean(x.dim() - 1))
    return (rstd.unsqueeze(-1) * x32).to(x.dtype) * weight


def t5_norm(x, weight):
    """The input is scaled in its own dtype times an fp32 factor."""
    variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
    x = x * torch.rsqrt(variance + 1e-5)
    return weight * (x.to(weight.dtype) if weight.dtype in (torch.float16, torch.bfloat16) else x)


def weightless_norm(x, weight):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


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
