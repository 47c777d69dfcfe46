# SPDX-License-Identifier: Apache-2.0
"""Kernels that are wrong, in the place of ``quant``: on a CPU a kernel runs as its reference, so that is what is wrong."""

from __future__ import annotations

import functools
import types

import torch

import helion_compile
from helion_compile.fusions.operands import Nodes, unpack
from helion_compile.fusions.quantize_epilogue import quantizer_text
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import quant
from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.semantics import Quantize

__all__ = ["WRONG", "as_catalogue"]

MAX = 448.0


def _scale_of_the_next_row(x, q, scale):
    return q, scale.roll(1, 0)


def _towards_zero(x, q, scale):
    value = (x.float() / scale).clamp(-MAX, MAX)
    lower = (q.view(torch.uint8).int() - 1).clamp(min=0).to(torch.uint8).view(q.dtype)  # same sign, a step smaller
    return torch.where(q.float().abs() > value.abs(), lower.view(torch.uint8), q.view(torch.uint8)).view(q.dtype), scale


def _one_element_far_off(x, q, scale):
    q = q.clone()
    q.view(torch.uint8)[-1, -1] = 0x40
    return q, scale


def _nan(x, q, scale):
    q = q.clone()
    q.view(torch.uint8)[0, 0] = 0x7F
    return q, scale


WRONG = {
    function.__name__.strip("_"): function for function in (_scale_of_the_next_row, _towards_zero, _one_element_far_off, _nan)
}


@functools.cache
def kernel(how: str) -> helion_compile.HelionKernel:
    """``quant`` with a fault; never launched."""

    def reference(x, static_scale, scale_ub, attributes, exact):
        q, scale = quant.reference(x, static_scale, scale_ub, attributes, exact)
        return WRONG[how](x, q, scale)

    def launched(x, static_scale, scale_ub, attributes, exact):
        raise AssertionError("a planted kernel was launched")

    return helion_compile.kernel(launched, reference=reference, name=f"planted_{how}")


def as_catalogue(how: str) -> types.SimpleNamespace:
    """What stands in ``helion_compile.fusions.CATALOGUE`` for a fusion with that kernel."""
    wrong = kernel(how)

    def build(chain, emit):
        x = Nodes(emit).rows(chain.inputs["x"])
        attributes = quantizer_text(chain[Quantize].op)
        results = unpack(emit, emit(helion_kernel, x, None, None, attributes, False, kernel=wrong.name))
        return {(Quantize, "q"): next(results), (Quantize, "scale"): next(results)}

    return types.SimpleNamespace(
        __name__="planted", KERNELS=(wrong,), fusion=lambda exact: Fusion("planted", (Quantize,), build)
    )
