# SPDX-License-Identifier: Apache-2.0
"""Activation -> quantise: ``activation_quant``.

    gate -> sigmoid -> mul(gate) -> mul(up) -> a
    a -> abs -> amax -> div(qmax) -> scale
    a -> div(scale) -> clamp -> cast -> q

is rewritten to

    activation_quant(gate, up, ...) -> q, scale

So is one without ``up``.  ``a`` is a result too where something else reads it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from helion_compile.fusions.operands import Operands, value_of
from helion_compile.fusions.quantize_epilogue import into_quantizer
from helion_compile.kernels import activation_quant
from helion_compile.kernels.device.activation import ActivationAttrs
from helion_compile.kernels.device.attribute_text import copy_fields, word_of
from helion_compile.kernels.families.activation_quant import ActivationQuantArgs
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.rewrite.fusion import Chain, Fusion
from helion_compile.passes.semantics import Activation, ActivationFunction

__all__ = ["KERNELS", "activation_fields", "check_activation", "fusion"]

aten = torch.ops.aten

KERNELS = (activation_quant,)
WIDEST = 2  # steps from one element to the next: halves may be every second element each (gpt-oss)

# Written with other operations, so with other last bits; of these and the kernel's neither is nearer to the function.
_ANOTHER_LAST_BIT = {
    ActivationFunction.GELU_DIVIDED: ActivationFunction.GELU,
    ActivationFunction.GELU_TANH_FACTORED: ActivationFunction.GELU_TANH,
}


def fusion(*, exact: bool) -> Fusion:
    """Activation -> Quantize as one ``activation_quant``."""
    return into_quantizer(
        activation_quant,
        ActivationQuantArgs,
        Activation,
        exact=exact,
        same_bits=exact,
        fields=_fields,
        outputs=lambda chain: [(Activation, "out")] if chain.copies_read(Activation, "out") else [],
        check=functools.partial(check_activation, exact=exact),
    )


def check_activation(chain: Chain, exact: bool) -> Refusal | None:
    """Why no kernel computes the activation of a chain."""
    activation = chain[Activation].op
    if exact and activation.function in _ANOTHER_LAST_BIT:
        return chain.refuse(
            RefusalKind.NUMERICS,
            "{function} has another last bit than {computed}, which the kernel computes",
            "with numerics='default' it fuses",
            function=activation.function,
            computed=_ANOTHER_LAST_BIT[activation.function],
        )
    # Default numerics round nothing before the quantiser: what the model keeps in fp32 they compute as it does.
    unrounded = activation.dtype == torch.float32 and not exact and not chain.copies_read(Activation, "out")
    if activation.dtype != activation.x_dtype and not unrounded:
        found, remedy = "the activation takes {x} and gives {out}", "of one dtype they fuse"
        return chain.refuse(RefusalKind.DTYPE, found, remedy, x=activation.x_dtype, out=activation.dtype)
    return None


def _tensors(chain: Chain, operands: Operands) -> tuple[Any, Any]:
    """What the function is taken of, and what it is multiplied by."""
    x, up = chain.inputs["x"], chain.inputs.get("up")
    if not chain[Activation].op.joined:
        return operands.rows(x, WIDEST), None if up is None else operands.rows(up, WIDEST)
    both, width = operands.rows(x), value_of(x).size(-1)
    gate, up = (operands.call(aten.slice.Tensor, both, 1, *spot) for spot in ((0, width // 2), (width // 2, width)))
    return gate, up


def activation_fields(chain: Chain, operands: Operands) -> dict[str, Any]:
    """The arguments that a chain's activation gives to a kernel."""
    activation = chain[Activation].op
    x, up = _tensors(chain, operands)
    return {
        "x": x,
        "up": up,
        "function": ActivationAttrs(
            function=word_of(_ANOTHER_LAST_BIT.get(activation.function, activation.function)),
            **copy_fields(activation, "limit", "up_offset"),
        ).text,
        "rounding": word_of(activation.rounding),
    }


def _fields(chain: Chain, operands: Operands) -> dict[str, Any]:
    return {**activation_fields(chain, operands), "keep": bool(chain.copies_read(Activation, "out"))}
