"""What a stretch of an FX graph computes, with every attribute that changes a bit of the result.

A meaning says nothing of how a model writes it down: ``passes.spellings`` reads the many ways of writing into these few
classes.  Two stretches with equal meanings and equal inputs give equal bits.

Letters in shapes: ``...`` leading dimensions, ``K`` hidden size, ``M`` rows (tokens), ``N`` output features.
"""

from passes.meanings.activation import Activation, ActivationFunction, ActivationRounding
from passes.meanings.base import Meaning
from passes.meanings.matmul import Matmul
from passes.meanings.norm import Norm, NormKind, NormRoot, NormRounding
from passes.meanings.quantize import Granularity, Quantize, ScaleDivision, ScaleFormat, ScaleLayout, ScaleUse
from passes.meanings.rope import ComplexRope, Rope, RopePairs, RopeRounding, RopeTable

__all__ = [
    "Activation",
    "ActivationFunction",
    "ActivationRounding",
    "ComplexRope",
    "Granularity",
    "Matmul",
    "Meaning",
    "Norm",
    "NormKind",
    "NormRoot",
    "NormRounding",
    "Quantize",
    "Rope",
    "RopePairs",
    "RopeRounding",
    "RopeTable",
    "ScaleDivision",
    "ScaleFormat",
    "ScaleLayout",
    "ScaleUse",
]
