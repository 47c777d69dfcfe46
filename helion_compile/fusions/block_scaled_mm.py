# SPDX-License-Identifier: Apache-2.0
"""Matmul with scales of blocks: ``block_scaled_mm``, where a table finds it faster than the library's.

    fp8_gemm_nt_op(a, a_scale, w, w_scale) -> out

is rewritten to

    block_scaled_mm(a, w, a_scale, w_scale, bias, ...) -> out

a [M, K] has a scale for each row and 128 of its columns, w [N, K] one for each block of 128 by 128.  The library is the one
whose matmul the graph has; rows against it say, for each number of tokens at run time, which of the two is called.
"""

from __future__ import annotations

from typing import Any

import torch

from helion_compile.configs.gpu import has_kernels
from helion_compile.fusions.operands import Outputs, check_kernel, value_of
from helion_compile.fusions.tuned import check_tuned
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import block_scaled_mm
from helion_compile.kernels.families.block_scaled_mm import BlockScaledMmArgs
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.rewrite.fusion import Chain, Emit, Fusion
from helion_compile.passes.semantics import Granularity, Matmul

__all__ = ["KERNELS", "fusion"]

aten = torch.ops.aten

KERNELS = (block_scaled_mm,)


def fusion(*, exact: bool) -> Fusion:
    """A Matmul of blocks as one ``block_scaled_mm``."""
    return Fusion("block_scaled_mm", (Matmul,), check=lambda chain: _check(chain, exact), build=_build, concerns=has_blocks)


def has_blocks(chain: Chain) -> bool:
    """Whether an operand of the chain's matmul has scales of groups or blocks."""
    op = chain[Matmul].op
    return Granularity.GROUP in (op.a_scales, op.b_scales)


def _check(chain: Chain, exact: bool) -> Refusal | None:
    if exact:
        found = "the kernel sums in another order than the library, whose product numerics='exact' keeps"
        return chain.refuse(RefusalKind.UNPROFITABLE, found, "with numerics='default' it fuses")
    device = value_of(chain.inputs["a"]).device.type
    if not has_kernels(device):
        found = "on a {device} the kernel has nothing to gain over the library's product"
        return chain.refuse(RefusalKind.UNPROFITABLE, found, "on cuda it fuses", device=device)
    arguments = _values(chain)
    return (
        check_kernel(chain, block_scaled_mm, *arguments)
        or check_tuned(chain, block_scaled_mm, arguments)
        or _check_faster(chain, arguments)
    )


def _check_faster(chain: Chain, arguments: BlockScaledMmArgs) -> Refusal | None:
    """Where the number of tokens is known now, the choice between kernel and library can be made now."""
    tokens = arguments.a.size(0)
    if isinstance(tokens, torch.SymInt):
        return None
    pick = block_scaled_mm.pick(arguments)
    if "fallback" not in (pick.config or {}):
        return None
    found = "for {tokens} tokens the library's product is the faster one ({row})"
    remedy = "where a table has the kernel faster, it fuses"
    return chain.refuse(RefusalKind.UNPROFITABLE, found, remedy, tokens=tokens, row=pick.sentence)


def _build(chain: Chain, emit: Emit) -> Outputs:
    op, inputs = chain[Matmul].op, chain.inputs
    w, w_scale = inputs["b"], inputs["b_scale"]
    if not op.b_is_rows:
        w, w_scale = (emit(aten.permute.default, each, [1, 0]) for each in (w, w_scale))
    arguments = _fill_in(op, inputs["a"], w, inputs["a_scale"], w_scale, inputs.get("bias"))
    return {(Matmul, "out"): emit(helion_kernel, *arguments, kernel=block_scaled_mm.name)}


def _values(chain: Chain) -> BlockScaledMmArgs:
    """The kernel's arguments as fake tensors."""
    op, bias = chain[Matmul].op, chain.inputs.get("bias")
    a, w, a_scale, w_scale = (value_of(chain.inputs[name]) for name in ("a", "b", "a_scale", "b_scale"))
    if not op.b_is_rows:
        w, w_scale = (each.t() if each.dim() == 2 else each for each in (w, w_scale))
    return _fill_in(op, a, w, a_scale, w_scale, None if bias is None else value_of(bias))


def _fill_in(op: Matmul, a: Any, w: Any, a_scale: Any, w_scale: Any, bias: Any) -> BlockScaledMmArgs:
    return BlockScaledMmArgs(a=a, w=w, a_scale=a_scale, w_scale=w_scale, bias=bias, dtype=op.dtype, library=op.library)
