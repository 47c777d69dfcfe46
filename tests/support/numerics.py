# SPDX-License-Identifier: Apache-2.0
"""Comparisons that say how far two results are apart, in the units in which the contracts are written."""

import torch

__all__ = ["assert_products_near", "fp8_steps", "quantised_steps", "relative_error", "rows_with_special_values"]


def fp8_steps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distance of two fp8 tensors element by element, in representable steps (ulp); NaN is at distance 0 from NaN only."""
    nan_a, nan_b = a.float().isnan(), b.float().isnan()
    steps = (_order(a) - _order(b)).abs()
    return torch.where(nan_a | nan_b, torch.where(nan_a & nan_b, 0, 1000), steps)


def quantised_steps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """:func:`fp8_steps`, or for int8 the difference."""
    return (a.int() - b.int()).abs() if a.dtype == torch.int8 else fp8_steps(a, b)


def _order(x: torch.Tensor) -> torch.Tensor:
    """Integers that order and space as the fp8 values do; -0 and 0 are one."""
    bits = x.view(torch.uint8).int()
    return torch.where(bits >= 128, 128 - bits, bits)


def relative_error(result: torch.Tensor, truth: torch.Tensor) -> float:
    """‖result - truth‖ / ‖truth‖ in fp64."""
    return ((result.double() - truth.double()).norm() / truth.double().norm()).item()


def assert_products_near(result: torch.Tensor, expected: torch.Tensor) -> None:
    """Products of fp8 values that were made with fewer roundings to bf16 than the model's, within 2^-5 of the norm.

    Three roundings left out (norm, weight, scale) move a value by 3 * 2^-9 at most, and with it one byte of ten to the next,
    as these are 2^-4 to 2^-3 apart: a tenth of the terms of a sum off by 2^-3 is 0.04 of its norm, were all at their worst.
    """
    assert relative_error(result, expected) <= 2**-5


def rows_with_special_values(k: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """[8, k]: ordinary, all zero, one inf, one -inf, one NaN, one huge outlier, all tiny, one element apart from zeros."""
    x = torch.randn(8, k, device=device).to(dtype)
    x[1] = 0
    x[2, k // 3] = float("inf")
    x[3, k // 2] = float("-inf")
    x[4, k - 1] = float("nan")
    x[5, k // 5] = torch.finfo(dtype).max
    x[6] *= 1e-6
    x[7] = 0
    x[7, 0] = 3.0
    return x
