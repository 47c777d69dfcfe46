"""Activation -> quantise: ``activation_quant``."""

from __future__ import annotations

from typing import Any

import torch

from helion_compile.fusions.quantizing import into_quantizer
from helion_compile.fusions.tensors import Operands, value_of
from helion_compile.kernels import activation_quant
from passes.fusion import Chain, Fusion
from passes.meanings import Activation, ActivationRounding

__all__ = ["KERNELS", "fusion"]

aten = torch.ops.aten

KERNELS = (activation_quant,)

_ROUNDING = {
    ActivationRounding.FUNCTION: "function",
    ActivationRounding.RESULT: "result",
    ActivationRounding.EVERY_STEP: "every step",
}


def fusion(*, exact: bool) -> Fusion:
    """Activation -> Quantize as one ``activation_quant``."""
    return into_quantizer(
        activation_quant,
        Activation,
        exact=exact,
        same_bits=exact,
        tensors=_tensors,
        attributes=_attributes,
        outputs=lambda chain: ["out"] if chain.wanted(Activation, "out") else [],
        refuse=_refuse,
    )


def _refuse(chain: Chain) -> str | None:
    activation = chain[Activation].meaning
    if activation.dtype != activation.x_dtype:
        return f"the activation takes {activation.x_dtype} and gives {activation.dtype}; of one dtype they fuse"
    return None


def _tensors(chain: Chain, operands: Operands) -> tuple[Any, Any]:
    """What the function is taken of, and what it is multiplied by."""
    x, up = chain.inputs["x"], chain.inputs.get("up")
    if not chain[Activation].meaning.joined:
        return operands.rows(x), None if up is None else operands.rows(up)
    both, width = operands.rows(x), value_of(x).size(-1)
    gate, up = (operands.call(aten.slice.Tensor, both, 1, *spot) for spot in ((0, width // 2), (width // 2, width)))
    return gate, up


def _attributes(chain: Chain) -> tuple[str, str]:
    activation = chain[Activation].meaning
    return activation.function.value, _ROUNDING[activation.rounding]
