"""Quantise alone: ``quant``."""

from __future__ import annotations

import functools
from typing import Any

from helion_compile.fusions.choosing import refused_or_left
from helion_compile.fusions.quantizing import (
    quantizer_inputs,
    quantizer_outputs,
    quantizer_text,
    refuse_quantize,
    refuse_readers,
)
from helion_compile.fusions.tensors import Outputs, rows_of, rows_value, unpack, value_of
from helion_compile.hop import helion_kernel
from helion_compile.kernels import quant
from passes.fusion import Chain, Emit, Fusion
from passes.meanings import Quantize

__all__ = ["KERNELS", "fusion"]

KERNELS = (quant,)


def fusion(*, exact: bool) -> Fusion:
    """A Quantize that no fusion with its producer takes, as ``quant``."""
    return Fusion(
        "quant",
        (Quantize,),
        refuse=functools.partial(_refuse, exact=exact),
        build=functools.partial(_build, exact=exact),
    )


def _refuse(chain: Chain, *, exact: bool) -> str | None:
    return (
        refuse_readers(chain, bit_equal=exact)
        or refuse_quantize(chain)
        or refused_or_left(chain, quant, exact, *_arguments(chain, exact, rows_value, value_of))
    )


def _build(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    arguments = _arguments(chain, exact, functools.partial(rows_of, emit), lambda node: node)
    results = unpack(emit, emit(helion_kernel, *arguments, kernel=quant.name))
    return dict(zip(quantizer_outputs(chain), results, strict=True))


def _arguments(chain: Chain, exact: bool, rows: Any, value: Any) -> tuple[Any, ...]:
    scale, scale_ub = (None if node is None else value(node) for node in quantizer_inputs(chain))
    return rows(chain.inputs["x"]), scale, scale_ub, quantizer_text(chain[Quantize].meaning), exact
