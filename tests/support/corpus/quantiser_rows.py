# SPDX-License-Identifier: Apache-2.0
"""A row of the table of quantisers: a function as a model or a library writes it, and the op that it is to be read as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from helion_compile.passes.ir.values import rounded
from helion_compile.passes.semantics import Granularity, Quantize, ScaleUse
from tests.support.conformance import Written

__all__ = ["BF16", "E4M3", "E5M2", "FP16", "FP32", "FP64", "STATIC", "TENSOR", "VLLM_FLOOR", "own_dtype", "written_into"]

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
TENSOR = dict(granularity=Granularity.TENSOR)
STATIC = dict(granularity=Granularity.TENSOR, dynamic=False)
VLLM_FLOOR = rounded(1 / (448 * 512), FP32)


def written_into(rows: list[Written]) -> Callable[..., Any]:
    """A decorator that adds rows to a list.  Its keywords are the semantic op's attributes, or functions of x's dtype."""

    def written(who, *, dtypes=(BF16, FP16, FP32), operands=("x",), sizes=(3, 5, 64), exact=True, **attributes):
        def add(function):
            def op(dtype):
                given = {key: value(dtype) if callable(value) else value for key, value in attributes.items()}
                bound = given.get("qmax", 448.0)
                usual = dict(x_dtype=dtype, dtype=E4M3, qmax=bound, scale_dtype=FP32, use=ScaleUse.DIVIDE)
                return Quantize(**usual | dict(clamp=(-bound, bound)) | given)

            rows.append(Written(who, function, operands, op, dtypes, exact, sizes=sizes))
            return function

        return add

    return written


def own_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype
