# SPDX-License-Identifier: Apache-2.0
"""Kernels for the launch tests: every kind of argument, and results that show which of them the kernel really got."""

import helion.language as hl
import torch

import helion_compile
from helion_compile.kernels.device.pdl import grid_dependency_wait, launch_dependents

__all__ = ["mixed", "mixed_rows", "rows_of_view", "scale_in_place"]


def _mixed(x, bias, factor, count, flag):
    out = x * factor + count
    if bias is not None:
        out = out + bias
    return (-out if flag else out).to(x.dtype), (x + count).to(x.dtype)


@helion_compile.kernel(reference=_mixed, name="test_launch_mixed")
def mixed(x, bias, factor: float, count: int, flag: hl.constexpr):
    """Two results out of a tensor of any strides, an optional one, a float, an integer and a constant; elementwise."""
    first, second = torch.empty_like(x), torch.empty_like(x)
    for tile in hl.tile(x.size()):
        value = x[tile] * factor + count
        if bias is not None:
            value = value + bias[tile]
        if flag:
            value = -value
        first[tile] = value.to(x.dtype)
        second[tile] = (x[tile] + count).to(x.dtype)
    return first, second


def _rows_of_view(x):
    rows = x.reshape(-1, x.size(-1))
    return (rows * 2 + 1).to(x.dtype)


@helion_compile.kernel(reference=_rows_of_view, name="test_launch_rows_of_view")
def rows_of_view(x):
    """[A, B, K] -> [A * B, K]: the host function makes a view first, and a copy where no view is possible."""
    rows = x.reshape(-1, x.size(-1))
    out = torch.empty_like(rows)
    for tile in hl.tile(rows.size()):
        out[tile] = (rows[tile] * 2 + 1).to(x.dtype)
    return out


def _scale_in_place(x, factor):
    x *= factor


@helion_compile.kernel(reference=_scale_in_place, name="test_launch_scale_in_place", mutates=("x",))
def scale_in_place(x, factor: float):
    """Writes to its argument."""
    for tile in hl.tile(x.size()):
        x[tile] = (x[tile] * factor).to(x.dtype)


def _mixed_rows(x):
    return (x.roll(1, 0) * 0.5 + 1).to(x.dtype)


@helion_compile.kernel(reference=_mixed_rows, name="test_launch_mixed_rows")
def mixed_rows(x):
    """[M, K]: each row is made of another one, so one that is read before it is written shows.  Waits for its predecessor."""
    m, k = x.size()
    out = torch.empty_like(x)
    for rows in hl.tile(m):
        launch_dependents()
        grid_dependency_wait()
        out[rows, :] = (x[(rows.index + m - 1) % m, :] * 0.5 + 1).to(x.dtype)
    return out
