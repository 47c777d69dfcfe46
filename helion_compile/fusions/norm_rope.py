# SPDX-License-Identifier: Apache-2.0
"""Norm -> rotary embedding, of queries or keys: ``norm_rope``.

    x -> pow -> mean -> add(eps) -> rsqrt -> mul(x) -> mul(weight) -> n
    n -> slice, neg, cat -> mul(sin) -> r
    n -> mul(cos) -> add(r) -> out

is rewritten to

    norm_rope(x, weight, cos, sin, ...) -> out

Inductor makes two kernels of it, one for the mean and one for the rest, which reads x again.  An embedding by complex products
is taken too: of these Inductor makes no code, so ``rope`` alone would read what the norm's kernel wrote.
"""

from __future__ import annotations

import functools

import torch

from helion_compile.fusions.operands import Fakes, Nodes, Operands, Outputs, check_kernel
from helion_compile.fusions.profitability import check_profitable_kernel
from helion_compile.fusions.rope_layout import Heads, check_heads, check_product, head_arguments, heads_of, in_the_shape_of
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import norm_rope
from helion_compile.kernels.device.attribute_text import word_of
from helion_compile.kernels.families.norm_rope import NormRopeArgs
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.values import known_equal, shape_of
from helion_compile.passes.rewrite.fusion import Chain, Emit, Fusion
from helion_compile.passes.semantics import (
    ComplexRope,
    Norm,
    NormKind,
    NormRoot,
    NormRounding,
    Rope,
    RopePairs,
    RopeRounding,
    RotaryEmbedding,
)

__all__ = ["KERNELS", "fusion"]

KERNELS = (norm_rope,)


def fusion(*, exact: bool) -> Fusion:
    """Norm -> RotaryEmbedding as one ``norm_rope``."""
    return Fusion(
        "norm_rope",
        (Norm, RotaryEmbedding),
        check=functools.partial(_check, exact=exact),
        build=functools.partial(_build, exact=exact),
    )


def _check(chain: Chain, *, exact: bool) -> Refusal | None:
    norm, rotary = chain[Norm].op, _rotary_of(chain)
    if refusal := _check_rotation(chain, exact):
        return refusal
    if norm.kind is not NormKind.RMS or norm.bias_dtype or norm.residual:
        found, remedy = "the norm is {norm}", "an RMSNorm without residual and bias fuses"
        return chain.refuse(RefusalKind.OP, found, remedy, norm=norm)
    if norm.root is not NormRoot.RSQRT or norm.factor_dtype != torch.float32:
        found, remedy = "the norm is {norm}", "a product with rsqrt(mean + eps) in fp32 fuses"
        return chain.refuse(RefusalKind.OP, found, remedy, norm=norm)
    if norm.dtype != norm.x_dtype:
        found, remedy = "the norm takes {x} and gives {out}", "of one dtype they fuse"
        return chain.refuse(RefusalKind.DTYPE, found, remedy, x=norm.x_dtype, out=norm.dtype)
    if chain.copies_read(Norm, "out"):
        found, remedy = "the norm is also read without the embedding", "read by the embedding alone it fuses"
        return chain.refuse(RefusalKind.READER, found, remedy)
    if refusal := check_heads(chain, rotary):
        return refusal
    heads = heads_of(chain, rotary)
    if isinstance(heads, Refusal):
        return heads
    width, out = shape_of(chain.inputs["x"])[-1], shape_of(chain[rotary].outputs["out"][0])
    per_head = not _over_heads(chain) and known_equal(width, out[-1])
    over_heads = _over_heads(chain) and known_equal(width, out[heads.dim - 4] * out[-1])
    if not (per_head or (over_heads and (chain[rotary].op.transposed or heads.dim == 2))):
        found, remedy = (
            "the norm is over {width} values, the heads are {heads}",
            "over a head or all heads of a token it fuses",
        )
        return chain.refuse(RefusalKind.SHAPE, found, remedy, width=width, heads=out)
    arguments = _arguments(chain, exact, heads, Fakes())
    if rotary is ComplexRope:  # no table has a time of what Inductor does with it
        return check_kernel(chain, norm_rope, *arguments)
    return check_profitable_kernel(chain, norm_rope, exact, *arguments)


def _rotary_of(chain: Chain) -> type[Rope | ComplexRope]:
    return ComplexRope if isinstance(chain.matches[-1].op, ComplexRope) else Rope


def _check_rotation(chain: Chain, exact: bool) -> Refusal | None:
    if _rotary_of(chain) is ComplexRope:
        return check_product(chain, exact)
    if chain[Rope].op.inverse:
        found, remedy = "pairs are rotated by minus the angle, as by cat([x2, -x1])", "cat([-x2, x1]) fuses"
        return chain.refuse(RefusalKind.OP, found, remedy)
    return None


def _build(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    rotary = _rotary_of(chain)
    heads = heads_of(chain, rotary)
    assert isinstance(heads, Heads), "checked before"
    result = emit(helion_kernel, *_arguments(chain, exact, heads, Nodes(emit)), kernel=norm_rope.name)
    return {(rotary, "out"): in_the_shape_of(heads, result, emit)}


def _over_heads(chain: Chain) -> bool:
    """Whether the norm reads all heads of a token as one row."""
    return len(shape_of(chain.inputs["x"])) < len(shape_of(chain[_rotary_of(chain)].outputs["out"][0]))


def _arguments(chain: Chain, exact: bool, heads: Heads, operands: Operands) -> NormRopeArgs:
    norm, rotary = chain[Norm].op, _rotary_of(chain)
    rope = chain[Rope].op if rotary is Rope else None
    return NormRopeArgs(
        **head_arguments(chain, rotary, heads, operands),
        weight=operands.of(chain.inputs["weight"]) if norm.weight_dtype else None,
        eps=norm.eps,
        weight_offset=norm.weight_offset,
        cast_then_scale=norm.rounding is NormRounding.CAST_THEN_SCALE,
        over_heads=_over_heads(chain),
        pairs=word_of(rope.pairs if rope else RopePairs.INTERLEAVED),
        stepwise=rope is not None and rope.rounding is RopeRounding.EVERY_STEP,
        heads_first=heads.heads_first,
        exact=exact,
    )
