# SPDX-License-Identifier: Apache-2.0
"""Attention and the activation beside it as one row, each with what it is to be read as: rows of the conformance table."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from helion_compile.passes.semantics import Concat
from tests.support.conformance import Written

CONCATS: list[Written] = []


def gelu(mlp):
    """What stands in front of the part behind."""
    return F.gelu(mlp.float(), approximate="tanh").to(mlp.dtype)


def written(who):
    """A row."""

    def add(function):
        dtypes = (torch.bfloat16, torch.float16, torch.float32)
        CONCATS.append(Written(who, function, ("back", "front"), lambda dtype: Concat(dtype=dtype), dtypes, behind=gelu))
        return function

    return add


@written("diffusers: Flux, Chroma")
def behind_attention(back, front):
    return torch.cat([front, back], dim=2)


@written("diffusers: Flux 2")
def along_the_last_dimension(back, front):
    return torch.cat((front, back), dim=-1)


@written("diffusers: HunyuanVideo, image and text taken apart and joined again")
def joined_again(back, front):
    image, text = front[:, :-2], front[:, -2:]
    return torch.cat([torch.cat([image, text], dim=1), back], dim=2)
