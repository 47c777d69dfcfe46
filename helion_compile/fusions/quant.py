"""Quantise alone: ``quant``."""

from __future__ import annotations

import functools

from helion_compile.fusions.quantizing import quantize_arguments, refuse_quantize, refuse_readers
from helion_compile.fusions.tensors import Outputs, refused_by, rows_of, rows_value, unpack
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
    x = chain.inputs["x"]
    return (
        refuse_readers(chain, bit_equal=exact)
        or refuse_quantize(chain, exact)
        or refused_by(quant, rows_value(x), *quantize_arguments(chain), exact)
    )


def _build(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    x = rows_of(emit, chain.inputs["x"])
    results = unpack(emit, emit(helion_kernel, x, *quantize_arguments(chain), exact, kernel=quant.key))
    return {(Quantize, "q"): next(results), (Quantize, "scale"): next(results)}
