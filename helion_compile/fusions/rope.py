# SPDX-License-Identifier: Apache-2.0
"""Rotary embedding by complex products: ``rope``.

    x -> to(fp32) -> view_as_complex -> mul(freqs) -> view_as_real -> to(x's dtype) -> out

is rewritten to

    rope(x, cos, sin, ...) -> out        cos, sin = the parts of freqs

Inductor makes no code for complex numbers: it calls a copy to fp32, the complex product and a cast back, three kernels for
one.  Products of complex128 are computed in fp32 where x and the result have 16 bits, from angles rounded to fp32.  Of
embeddings in real numbers Inductor makes one kernel as ``rope`` is, which fuses with what is around it, so they are left to
it.
"""

from __future__ import annotations

import functools

from helion_compile.fusions.operands import Fakes, Nodes, Operands, Outputs, check_kernel
from helion_compile.fusions.rope_layout import Heads, check_product, head_arguments, heads_of, in_the_shape_of
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import rope
from helion_compile.kernels.device.attribute_text import word_of
from helion_compile.kernels.families.rope import RopeArgs
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.rewrite.fusion import Chain, Emit, Fusion
from helion_compile.passes.semantics import ComplexRope, RopePairs

__all__ = ["KERNELS", "fusion"]

KERNELS = (rope,)


def fusion(*, exact: bool) -> Fusion:
    """ComplexRope as one ``rope``."""
    return Fusion(
        "rope",
        (ComplexRope,),
        check=functools.partial(_check, exact=exact),
        build=functools.partial(_build, exact=exact),
    )


def _check(chain: Chain, *, exact: bool) -> Refusal | None:
    op = chain[ComplexRope].op
    if refusal := check_product(chain, exact):
        return refusal
    if op.dtype != op.x_dtype:
        found, remedy = "x is {x} and the result {out}", "of one dtype they fuse"
        return chain.refuse(RefusalKind.DTYPE, found, remedy, x=op.x_dtype, out=op.dtype)
    heads = heads_of(chain, ComplexRope)
    if isinstance(heads, Refusal):
        return heads
    return check_kernel(chain, rope, *_arguments(chain, heads, Fakes()))


def _build(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    heads = heads_of(chain, ComplexRope)
    assert isinstance(heads, Heads), "checked before"
    result = emit(helion_kernel, *_arguments(chain, heads, Nodes(emit)), kernel=rope.name)
    return {(ComplexRope, "out"): in_the_shape_of(heads, result, emit)}


def _arguments(chain: Chain, heads: Heads, operands: Operands) -> RopeArgs:
    return RopeArgs(
        **head_arguments(chain, ComplexRope, heads, operands),
        pairs=word_of(RopePairs.INTERLEAVED),
        stepwise=False,
        heads_first=heads.heads_first,
        exact=False,
    )
