# SPDX-License-Identifier: Apache-2.0
"""Marks for tests of what not every tested torch can do."""

import pytest
import torch
import torch.nn.functional as F

__all__ = [
    "HAS_FUNCTIONAL_PRODUCTS",
    "HAS_ROW_WISE_PRODUCTS",
    "ROUNDS_BEFORE_WIDENING",
    "cpp_without_gpu",
    "row_wise_products",
    "uint8_products",
]

# Inductor of torch 2.11 makes one cast of two: a value that is cast to 16 bits and widened again is not rounded.
ROUNDS_BEFORE_WIDENING = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


def _multiplies_rows() -> bool:
    a = torch.ones(16, 16).to(torch.float8_e4m3fn)
    scale = torch.ones(16, 1)
    try:
        torch._scaled_mm(a, a.t(), scale, scale.t(), out_dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


HAS_ROW_WISE_PRODUCTS = _multiplies_rows()
row_wise_products = pytest.mark.skipif(not HAS_ROW_WISE_PRODUCTS, reason="this torch has no row-wise _scaled_mm on a CPU")


def _multiplies_functionally() -> bool:
    a, scale = torch.ones(16, 16).to(torch.float8_e4m3fn), torch.ones(1)
    try:
        F.scaled_mm(a, a.t(), scale, F.ScalingType.TensorWise, scale, F.ScalingType.TensorWise)
    except NotImplementedError:
        return False
    return True


HAS_FUNCTIONAL_PRODUCTS = _multiplies_functionally()


def _multiplies_uint8() -> bool:
    try:
        torch._int_mm(torch.ones(32, 32, dtype=torch.uint8), torch.ones(32, 32, dtype=torch.int8))
    except RuntimeError:
        return False
    return True


uint8_products = pytest.mark.skipif(not _multiplies_uint8(), reason="this torch has no _int_mm of uint8 on a CPU")

cpp_without_gpu = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="this torch runs each kernel before it writes its C++"
)
