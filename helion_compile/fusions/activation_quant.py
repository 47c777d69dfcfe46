"""Activation -> quantise: ``activation_quant``."""

from __future__ import annotations

import functools
from typing import Any

import torch

from helion_compile.fusions.choosing import refused_or_left
from helion_compile.fusions.quantizing import (
    quantizer_inputs,
    quantizer_outputs,
    quantizer_text,
    refuse_quantize,
    refuse_readers,
)
from helion_compile.fusions.tensors import Outputs, Reason, rows_of, rows_value, unpack, value_of
from helion_compile.hop import helion_kernel
from helion_compile.kernels import activation_quant
from passes.fusion import Chain, Emit, Fusion
from passes.meanings import Activation, ActivationRounding, Quantize

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
    return Fusion(
        "activation_quant",
        (Activation, Quantize),
        refuse=functools.partial(_refuse, exact=exact),
        build=functools.partial(_build, exact=exact),
    )


def _refuse(chain: Chain, *, exact: bool) -> str | None:
    activation = chain[Activation].meaning
    if activation.dtype != activation.x_dtype:
        return f"the activation takes {activation.x_dtype} and gives {activation.dtype}; of one dtype they fuse"
    return (
        refuse_readers(chain, bit_equal=exact)
        or refuse_quantize(chain)
        or refused_or_left(chain, activation_quant, exact, *_arguments(chain, exact, rows_value, value_of, _call))
    )


def _build(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    arguments = _arguments(chain, exact, functools.partial(rows_of, emit), lambda node: node, emit)
    results = unpack(emit, emit(helion_kernel, *arguments, kernel=activation_quant.name))
    outputs = quantizer_outputs(chain)
    if chain.wanted(Activation, "out"):
        outputs.append((Activation, "out"))
    return dict(zip(outputs, results, strict=True))


def _arguments(chain: Chain, exact: bool, rows: Any, value: Any, call: Any) -> tuple[Any, ...]:
    activation = chain[Activation].meaning
    scale, scale_ub = (None if node is None else value(node) for node in quantizer_inputs(chain))
    x, up = rows(chain.inputs["x"]), rows(chain.inputs["up"]) if "up" in chain.inputs else None
    if activation.joined:
        width = value_of(chain.inputs["x"]).size(-1)
        x, up = (call(aten.slice.Tensor, x, 1, *spot) for spot in ((0, width // 2), (width // 2, width)))
    return (
        x,
        up,
        scale,
        scale_ub,
        activation.function.value,
        _ROUNDING[activation.rounding],
        quantizer_text(chain[Quantize].meaning),
        exact,
        bool(chain.wanted(Activation, "out")),
    )


def _call(target: Any, x: Any, *args: Any) -> Any:
    return x if isinstance(x, Reason) else target(x, *args)
