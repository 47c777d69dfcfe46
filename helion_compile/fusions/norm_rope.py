"""Norm -> rotary embedding, of queries or keys: ``norm_rope``.

Inductor makes two kernels of it, one for the mean and one for the rest, which reads x again.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from helion_compile.fusions.operands import Fakes, Nodes, Operands, Outputs, Reason
from helion_compile.fusions.profitability import refused_or_left
from helion_compile.fusions.rope_layout import Heads, head_arguments, heads_of, in_the_shape_of, refuse_heads
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import norm_rope
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
        refuse=functools.partial(_refuse, exact=exact),
        build=functools.partial(_build, exact=exact),
    )


def _refuse(chain: Chain, *, exact: bool) -> str | None:
    norm, rope = chain[Norm].op, chain[Rope].op
    if norm.kind is not NormKind.RMS or norm.bias_dtype or norm.residual:
        return f"an RMSNorm without residual and bias fuses, found {norm}"
    if norm.root is not NormRoot.RSQRT or norm.factor_dtype != torch.float32:
        return f"a product with rsqrt(mean + eps) in fp32 fuses, found {norm}"
    if norm.dtype != norm.x_dtype:
        return f"the norm takes {norm.x_dtype} and gives {norm.dtype}; of one dtype they fuse"
    if chain.wanted(Norm, "out"):
        return "the norm is also read without the embedding; read by the embedding alone it fuses"
    if reason := refuse_heads(chain, Rope):
        return reason
    heads = heads_of(chain, Rope)
    if isinstance(heads, Reason):
        return heads
    width, out = shape_of(chain.inputs["x"])[-1], shape_of(chain[Rope].outputs["out"][0])
    per_head = not _over_heads(chain) and known_equal(width, out[-1])
    over_heads = _over_heads(chain) and known_equal(width, out[heads.dim - 4] * out[-1])
    if not (per_head or (over_heads and (rope.swapped or heads.dim == 2))):
        return f"the norm is over {width} values, the heads are {list(out)}; over a head or all heads of a token it fuses"
    return refused_or_left(chain, norm_rope, exact, *_arguments(chain, exact, heads, Fakes()))


def _build(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    heads = heads_of(chain, Rope)
    result = emit(helion_kernel, *_arguments(chain, exact, heads, Nodes(emit)), kernel=norm_rope.name)
    return {(Rope, "out"): in_the_shape_of(heads, result, emit)}


def _over_heads(chain: Chain) -> bool:
    """Whether the norm reads all heads of a token as one row."""
    return len(shape_of(chain.inputs["x"])) < len(shape_of(chain[Rope].outputs["out"][0]))


def _arguments(chain: Chain, exact: bool, heads: Heads, operands: Operands) -> tuple[Any, ...]:
    norm, rope = chain[Norm].op, chain[Rope].op
    x, *tables = head_arguments(chain, Rope, heads, operands)
    return (
        x,
        operands.of(chain.inputs["weight"]) if norm.weight_dtype else None,
        *tables,
        norm.eps,
        norm.weight_offset,
        norm.rounding is NormRounding.CAST_THEN_SCALE,
        _over_heads(chain),
        rope.pairs.value,
        rope.rounding is RopeRounding.EVERY_STEP,
        heads.heads_first,
        exact,
    )
