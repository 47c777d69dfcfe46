# SPDX-License-Identifier: Apache-2.0
"""Semantic ops: what nodes of an FX graph compute, with every attribute that changes a bit of the result.

An op says nothing of how a model writes it: ``passes.patterns`` matches the many ways of writing each of these few classes.
Equal ops of equal inputs give equal bits.

Letters in shapes: ``...`` leading dimensions, ``K`` hidden size, ``M`` rows (tokens), ``N`` output features.
"""

from helion_compile.passes.semantics.activation import Activation, ActivationFunction, ActivationRounding
from helion_compile.passes.semantics.base import SemanticOp
from helion_compile.passes.semantics.concat import Concat
from helion_compile.passes.semantics.matmul import Matmul
from helion_compile.passes.semantics.modulate import Modulate, ModulateRounding
from helion_compile.passes.semantics.norm import Norm, NormKind, NormRoot, NormRounding
from helion_compile.passes.semantics.quantize import Granularity, Quantize, ScaleDivision, ScaleFormat, ScaleLayout, ScaleUse
from helion_compile.passes.semantics.rope import ComplexRope, Rope, RopePairs, RopeRounding, RopeTable, RotaryEmbedding

__all__ = [
    "Activation",
    "ActivationFunction",
    "ActivationRounding",
    "ComplexRope",
    "Concat",
    "Granularity",
    "Matmul",
    "Modulate",
    "ModulateRounding",
    "SemanticOp",
    "Norm",
    "NormKind",
    "NormRoot",
    "NormRounding",
    "Quantize",
    "Rope",
    "RopePairs",
    "RopeRounding",
    "RopeTable",
    "RotaryEmbedding",
    "ScaleDivision",
    "ScaleFormat",
    "ScaleLayout",
    "ScaleUse",
]
