"""Norm -> rotary embedding, of queries or keys: ``norm_rope``.

    x -> pow -> mean -> add(eps) -> rsqrt -> mul(x) -> mul(weight) -> n
    n -> slice, neg, cat -> mul(sin) -> r
    n -> mul(cos) -> add(r) -> out

is rewritten to

    norm_rope(x, weight, cos, sin, ...) -> out

Inductor makes two kernels of it, one for the mean and one for the rest, which reads x again.
"""

from __future__ import annotations

import functools

import torch

from helion_compile.fusions.operands import Fakes, Nodes, Operands, Outputs
from helion_compile.fusions.profitability import check_profitable_kernel
from helion_compile.fusions.rope_layout import Heads, check_heads, head_arguments, heads_of, in_the_shape_of
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import norm_rope
from helion_compile.kernels.device.attribute_text import word_of
from helion_compile.kernels.families.norm_rope import NormRopeArgs
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.values import known_equal, shape_of
from helion_compile.passes.rewrite.fusion import Chain, Emit, Fusion
from helion_compile.passes.semantics import Norm, NormKind, NormRoot, NormRounding, Rope, RopeRounding

__all__ = ["KERNELS", "fusion"]

KERNELS = (norm_rope,)


def fusion(*, exact: bool) -> Fusion:
    """Norm -> Rope as one ``norm_rope``."""
    return Fusion(
        "norm_rope",
        (Norm, Rope),
        check=functools.partial(_check, exact=exact),
        build=functools.partial(_build, exact=exact),
    )


def _check(chain: Chain, *, exact: bool) -> Refusal | None:
    norm, rope = chain[Norm].op, chain[Rope].op
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
    if refusal := check_heads(chain, Rope):
        return refusal
    heads = heads_of(chain, Rope)
    if isinstance(heads, Refusal):
        return heads
    width, out = shape_of(chain.inputs["x"])[-1], shape_of(chain[Rope].outputs["out"][0])
    per_head = not _over_heads(chain) and known_equal(width, out[-1])
    over_heads = _over_heads(chain) and known_equal(width, out[heads.dim - 4] * out[-1])
    if not (per_head or (over_heads and (rope.transposed or heads.dim == 2))):
        found, remedy = (
            "the norm is over {width} values, the heads are {heads}",
            "over a head or all heads of a token it fuses",
        )
        return chain.refuse(RefusalKind.SHAPE, found, remedy, width=width, heads=out)
    return check_profitable_kernel(chain, norm_rope, exact, *_arguments(chain, exact, heads, Fakes()))


def _build(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    heads = heads_of(chain, Rope)
    assert isinstance(heads, Heads), "checked before"
    result = emit(helion_kernel, *_arguments(chain, exact, heads, Nodes(emit)), kernel=norm_rope.name)
    return {(Rope, "out"): in_the_shape_of(heads, result, emit)}


def _over_heads(chain: Chain) -> bool:
    """Whether the norm reads all heads of a token as one row."""
    return len(shape_of(chain.inputs["x"])) < len(shape_of(chain[Rope].outputs["out"][0]))


def _arguments(chain: Chain, exact: bool, heads: Heads, operands: Operands) -> NormRopeArgs:
    norm, rope = chain[Norm].op, chain[Rope].op
    return NormRopeArgs(
        **head_arguments(chain, Rope, heads, operands),
        weight=operands.of(chain.inputs["weight"]) if norm.weight_dtype else None,
        eps=norm.eps,
        weight_offset=norm.weight_offset,
        cast_then_scale=norm.rounding is NormRounding.CAST_THEN_SCALE,
        over_heads=_over_heads(chain),
        pairs=word_of(rope.pairs),
        stepwise=rope.rounding is RopeRounding.EVERY_STEP,
        heads_first=heads.heads_first,
        exact=exact,
    )
