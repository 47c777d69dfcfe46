# SPDX-License-Identifier: Apache-2.0
"""The smallest kernels that have one property each; [N] or [M, N] is any shape."""

import helion.language as hl
import torch

import helion_compile
from helion_compile import Case

__all__ = ["accumulate", "add", "affine", "bump", "fill_optional", "last_dim_contiguous", "split_sign"]


def _add(x, y):
    return x + y


@helion_compile.kernel(reference=_add, name="test_add", case=lambda x, y: Case(num_tokens=x.size(0)))
def add(x, y):
    """One tensor out of two; its case is the number of rows."""
    out = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        out[tile] = x[tile] + y[tile]
    return out


def _affine(x, bias, scale, repeat, dtype):
    out = x * scale
    if bias is not None:
        out = out + bias * repeat
    return out.to(dtype or x.dtype)


@helion_compile.kernel(reference=_affine, name="test_affine")
def affine(x, bias=None, scale=2.0, repeat=1, dtype=None):
    """``x * scale + repeat * bias``: optional, default, keyword and scalar arguments."""
    out = torch.empty_like(x, dtype=dtype)
    for tile in hl.tile(x.size()):
        value = x[tile] * scale
        if bias is not None:
            value = value + bias[tile] * repeat
        out[tile] = value
    return out


def _split_sign(x):
    return x.clamp(min=0), x.clamp(max=0)


@helion_compile.kernel(reference=_split_sign, name="test_split_sign")
def split_sign(x):
    """Two tensors out of one."""
    positive, negative = torch.empty_like(x), torch.empty_like(x)
    for tile in hl.tile(x.size()):
        positive[tile] = torch.clamp(x[tile], min=0)
        negative[tile] = torch.clamp(x[tile], max=0)
    return positive, negative


def _bump(x):
    x += 1


@helion_compile.kernel(reference=_bump, name="test_bump", mutates=("x",))
def bump(x):
    """Writes to its argument and returns nothing."""
    for tile in hl.tile(x.size()):
        x[tile] = x[tile] + 1


def _accumulate(total, x):
    total += x
    return total * 2


@helion_compile.kernel(reference=_accumulate, name="test_accumulate", mutates=["total"])
def accumulate(total, x):
    """Adds ``x`` to ``total`` in place, and returns twice the sum."""
    doubled = torch.empty_like(total)
    for tile in hl.tile(x.size()):
        value = total[tile] + x[tile]
        total[tile] = value
        doubled[tile] = value * 2
    return doubled


def _fill_optional(x, out):
    if out is not None:
        out.copy_(x)
    return x + 1


@helion_compile.kernel(reference=_fill_optional, name="test_fill_optional", mutates=("out",))
def fill_optional(x, out=None):
    """Writes ``x`` to ``out``, if there is one, and returns ``x + 1``."""
    result = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        if out is not None:
            out[tile] = x[tile]
        result[tile] = x[tile] + 1
    return result


def _last_dim_contiguous(x):
    return x * 3


def _check_contiguous(x):
    return None if x.stride(-1) == 1 else f"the last dimension of x has stride {x.stride(-1)}; call x.contiguous() before"


@helion_compile.kernel(reference=_last_dim_contiguous, check_supported=_check_contiguous, name="test_last_dim_contiguous")
def last_dim_contiguous(x):
    """Takes only tensors whose last dimension is contiguous."""
    out = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        out[tile] = x[tile] * 3
    return out
