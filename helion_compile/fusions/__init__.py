# SPDX-License-Identifier: Apache-2.0
"""What becomes what: chains of semantic ops and the kernel that each becomes.

One fusion a file, named as its kernel.  Each has ``KERNELS``, all kernels that it may put into a graph, and
``fusion(exact)``, the :class:`passes.Fusion`.  ``CATALOGUE`` lists them in order of preference.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from helion_compile.fusions import (
    activation_quant,
    block_scaled_mm,
    concat_activation_quant,
    modulated_norm_quant,
    norm_quant,
    norm_rope,
    quant,
    rope,
    scaled_mm,
)
from helion_compile.graph import lowering
from helion_compile.graph.hop import helion_kernel
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.rewrite.fusion import Chain, Fusion

__all__ = ["CATALOGUE", "NUMERICS", "fusions", "identity"]

NUMERICS = ("default", "exact")
CATALOGUE = (
    modulated_norm_quant,
    norm_quant,
    norm_rope,
    concat_activation_quant,
    activation_quant,
    quant,
    rope,
    scaled_mm,
    block_scaled_mm,
)


def fusions(numerics: str = "default", untuned: bool = False) -> tuple[Fusion, ...]:
    """The fusions, best first.

    Args:
        numerics: "default", where kernels keep intermediate values in fp32 as Inductor's do, or "exact", where they keep
            every rounding step of the eager model.
        untuned: fuse also where no table and no measurement says that the kernel is faster.
    """
    lowering.register_op(helion_kernel)  # the pass makes nodes while Inductor is at work, past the op's own tracing
    made = [module.fusion(exact=numerics == "exact") for module in CATALOGUE]
    if untuned:
        made = [dataclasses.replace(fusion, check=functools.partial(_check_untuned, fusion.check)) for fusion in made]
    return tuple(made)


def _check_untuned(check: Callable[[Chain], Refusal | None], chain: Chain) -> Refusal | None:
    refusal = check(chain)
    return None if refusal and refusal.kind is RefusalKind.UNTUNED else refusal


def identity(numerics: str) -> str:
    """Everything beyond the graph that decides what the fusions put there; part of the compile cache's key."""
    kernels = {kernel.short_name: kernel for module in CATALOGUE for kernel in module.KERNELS}
    return " ".join([numerics, *(f"{kernel.key} {kernel.table.fingerprint()}" for kernel in kernels.values())])
