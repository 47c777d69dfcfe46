# SPDX-License-Identifier: Apache-2.0
"""Activation -> concatenate -> quantise: ``concat_activation_quant``.

    mlp -> gelu -> a
    cat([attention, a], -1) -> c
    c -> abs -> amax -> div(qmax) -> scale
    c -> div(scale) -> clamp -> cast -> q

is rewritten to

    concat_activation_quant(attention, mlp, ...) -> q, scale

So is one whose activation is multiplied by a second half.  ``c`` is a result too where something else reads it.
"""

from __future__ import annotations

import functools
from typing import Any

from helion_compile.fusions import activation_quant
from helion_compile.fusions.operands import Operands
from helion_compile.fusions.profitability import check_operand_in_memory
from helion_compile.fusions.quantize_epilogue import into_quantizer
from helion_compile.kernels import concat_activation_quant
from helion_compile.kernels.families.concat_activation_quant import ConcatActivationQuantArgs
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.values import known_equal, shape_of
from helion_compile.passes.rewrite.fusion import Chain, Fusion
from helion_compile.passes.semantics import Activation, Concat, Granularity, Quantize

__all__ = ["KERNELS", "fusion"]

KERNELS = (concat_activation_quant,)


def fusion(*, exact: bool) -> Fusion:
    """Activation -> Concat -> Quantize as one ``concat_activation_quant``."""
    return into_quantizer(
        concat_activation_quant,
        _make_arguments,
        Activation,
        Concat,
        exact=exact,
        same_bits=exact,
        fields=_fields,
        outputs=lambda chain: [(Concat, "out")] if chain.copies_read(Concat, "out") else [],
        check=functools.partial(_check, exact=exact),
        check_profitable=(lambda chain: None) if exact else functools.partial(check_operand_in_memory, name="front"),
    )


def _make_arguments(scale: Any, **fields: Any) -> ConcatActivationQuantArgs:
    """``scale``, a static one, is None: see ``_check``."""
    return ConcatActivationQuantArgs(**fields)


def _check(chain: Chain, exact: bool) -> Refusal | None:
    quantize = chain[Quantize].op
    if not quantize.dynamic or quantize.granularity is Granularity.GROUP:
        return chain.refuse(
            RefusalKind.INDUCTOR,
            "with {scale} no element needs the whole row of both parts, and Inductor makes one kernel too",
            "one scale per token fuses",
            scale="one scale per group" if quantize.dynamic else "a static scale",
        )
    if chain.copies_read(Activation, "out"):
        found, remedy = "the activation is also read by itself", "read by the concatenation alone it fuses"
        return chain.refuse(RefusalKind.READER, found, remedy)
    made, joined = (shape_of(node)[-1] for node in (chain[Activation].outputs["out"][0], chain[Concat].inputs["back"]))
    if not known_equal(made, joined):
        found, remedy = "rows of {made} elements are concatenated in rows of {joined}", "rows that stay as they are fuse"
        return chain.refuse(RefusalKind.SHAPE, found, remedy, made=made, joined=joined)
    return activation_quant.check_activation(chain, exact)


def _fields(chain: Chain, operands: Operands) -> dict[str, Any]:
    fields = activation_quant.activation_fields(chain, operands)
    keep = bool(chain.copies_read(Concat, "out"))
    return {"front": operands.rows(chain.inputs["front"]), **fields, "keep": keep}
