# SPDX-License-Identifier: Apache-2.0
"""What a fused site promises, in numbers that one run can check.  ``docs/numerics.md`` gives the argument for each.

``"default"``: each element lies between the original's value and the value in fp64, or one step beyond (64 steps for a
result in fp32).  The original rounds several times on the way and the kernel once, so the kernel is near the fp64 result
wherever the original is far from it; a step is what the kernel's own rounding, and a division by a reciprocal, can move.
And it is no farther from fp64 as a whole, by SQNR with a margin of 1 dB.

``"exact"``: the original's bits.  Where a sum is involved (a norm's mean, a product) its order may move the value behind
it by one step, in at most 0.1 % of the elements or a row of them; where fp32 values are rounded to nothing narrower, its
order shows in any of them, by 64 steps at most.

Where values are added that may cancel (a product, a rotation, a norm that takes off its mean or adds a bias, a shift), a last
bit of a summand is many steps of a small result: there steps are measured at the largest magnitude of each row.  In gelu's
1 + erf(x) both summands are in fp32, so 2^-18 of that magnitude is all that may be left of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helion_compile.passes.semantics import (
    Activation,
    ActivationFunction,
    Matmul,
    Modulate,
    Norm,
    NormKind,
    RotaryEmbedding,
    SemanticOp,
)

__all__ = ["Contract", "contract_of"]

_SUMS = (Norm, Matmul)
_GELU = (
    ActivationFunction.GELU,
    ActivationFunction.GELU_DIVIDED,
    ActivationFunction.GELU_TANH,
    ActivationFunction.GELU_TANH_FACTORED,
)
_FP32_STEPS = 64  # a mean over 16384 values in fp32, whatever its order, and 3 ulp of an approximate division
_FP32_LOSS = 2**-18  # the same as a part of a value


@dataclass(frozen=True)
class Contract:
    """
    Attributes:
        bits: whether nothing may differ from the original at all.
        steps: how many steps an element may be away; from the original, or with fp64 at hand from both.
        share: of elements that may differ, None for any; of a result in fp32 any may.
        margin: dB by which the SQNR against fp64 may be below the original's, None for any.
        at_row_scale: whether a step is measured at the largest magnitude of the element's row.
        cancelled: part of that magnitude by which an element may be off besides, where only values in fp32 cancel.
    """

    bits: bool = False
    steps: float = 1
    share: float | None = None
    margin: float | None = None
    at_row_scale: bool = False
    cancelled: float = 0.0

    def steps_of(self, dtype: str, in_fp64: bool) -> float:
        """How many steps a result of ``dtype`` ("bf16") may be away."""
        if self.bits:
            return 0
        steps = _FP32_STEPS if dtype == "fp32" else self.steps
        return steps if in_fp64 or self.share is not None else steps + 1


def contract_of(ops: Sequence[SemanticOp], numerics: str) -> Contract:
    """The contract of a chain of semantic ops under ``options["numerics"]``."""
    cancels = any(map(_adds_what_cancels, ops))
    if numerics == "default":
        gelu = any(isinstance(op, Activation) and op.function in _GELU for op in ops)
        return Contract(margin=1.0, at_row_scale=cancels, cancelled=_FP32_LOSS if gelu else 0.0)
    if not any(isinstance(op, _SUMS) for op in ops):
        return Contract(bits=True, steps=0)
    return Contract(share=0.001, at_row_scale=cancels)


def _adds_what_cancels(op: SemanticOp) -> bool:
    if isinstance(op, Norm):
        return op.kind is NormKind.LAYER or op.bias_dtype is not None or op.gate_dtype is not None
    if isinstance(op, Modulate):
        return op.shift_dtype is not None
    return isinstance(op, (Matmul, RotaryEmbedding))
