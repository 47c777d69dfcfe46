# SPDX-License-Identifier: Apache-2.0
"""Random tensors that are the same in every run."""

from __future__ import annotations

import torch

__all__ = ["tensor"]


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
