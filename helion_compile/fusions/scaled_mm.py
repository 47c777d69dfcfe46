# SPDX-License-Identifier: Apache-2.0
"""Scaled matmul: ``scaled_mm``, where tables or the kernel's own judgement find it faster than the library's.

    _scaled_mm(a, w.t(), a_scale, w_scale, bias) -> out

is rewritten to

    scaled_mm(a, w, a_scale, w_scale, bias, ...) -> out

The library is the one whose matmul the graph has: torch's, or vLLM's CUTLASS, against which only tables count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.configs.gpu import Gpu, has_kernels
from helion_compile.fusions.block_scaled_mm import has_blocks
from helion_compile.fusions.operands import Outputs, check_kernel, value_of
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import scaled_mm
from helion_compile.kernels.families.scaled_mm import ScaledMmArgs
from helion_compile.kernels.families.scaled_mm_configs import FEW_TOKENS
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.rewrite.fusion import Chain, Emit, Fusion
from helion_compile.passes.semantics import Matmul

__all__ = ["KERNELS", "fusion"]

aten = torch.ops.aten

KERNELS = (scaled_mm,)
ARCH = "sm_90"  # whose memory the default configs fill; others need tables, and those rows of their own


def fusion(*, exact: bool) -> Fusion:
    """A Matmul as one ``scaled_mm``; how many tokens there are at run time decides whether that calls the library."""
    return Fusion(
        "scaled_mm",
        (Matmul,),
        check=lambda chain: _check(chain, exact),
        build=_build,
        concerns=lambda chain: not has_blocks(chain),  # which are block_scaled_mm's
    )


def _check(chain: Chain, exact: bool) -> Refusal | None:
    op = chain[Matmul].op
    if exact:
        found = "the kernel sums in another order than the library, whose product numerics='exact' keeps"
        return chain.refuse(RefusalKind.UNPROFITABLE, found, "with numerics='default' it fuses")
    device = value_of(chain.inputs["a"]).device.type
    if not has_kernels(device):
        found = "on a {device} the kernel has nothing to gain over the library's product"
        return chain.refuse(RefusalKind.UNPROFITABLE, found, "on cuda it fuses", device=device)
    if (device != "cuda" or torch.cuda.is_available()) and Gpu.current().arch != ARCH:
        found = "the kernel's default configs are for {arch}, and this GPU is {gpu}"
        remedy = "on {arch} it fuses"
        return chain.refuse(RefusalKind.UNPROFITABLE, found, remedy, arch=ARCH, gpu=Gpu.current().arch)
    if op.library == "triton":
        found, remedy = "nobody compared the kernel with vLLM's GEMM in Triton", "behind torch's or CUTLASS's it is known"
        return chain.refuse(RefusalKind.UNPROFITABLE, found, remedy)
    kinds = {op.a_scales, op.b_scales}
    if op.zero_points:
        return chain.refuse(RefusalKind.OP, "the rows of a have zero points", "without them it fuses")
    if op.scale_dtype != torch.float32 and op.operands != torch.int8:
        return chain.refuse(RefusalKind.DTYPE, "the scales are {scales}", "scales in fp32 fuse", scales=op.scale_dtype)
    if len(kinds) > 1 and op.operands != torch.int8:
        found = "one operand has a scale for each row and the other one for all"
        return chain.refuse(RefusalKind.OP, found, "scales of one kind, which the library takes, fuse")
    arguments = _values(chain)
    return check_kernel(chain, scaled_mm, *arguments) or _check_measured(chain, arguments) or _check_faster(chain, arguments)


def _check_measured(chain: Chain, arguments: ScaledMmArgs) -> Refusal | None:
    """CUTLASS is fast for few tokens too: only where a table compares with it can the kernel be known to be faster."""
    if arguments.library != "cutlass":
        return None
    a, a_scale = arguments.a, arguments.a_scale
    by_tensor = statically_known_true(a_scale.size(0) == 1)
    few = arguments._replace(
        a=a.new_empty(FEW_TOKENS, a.size(1)), a_scale=a_scale if by_tensor else a_scale.new_empty(FEW_TOKENS)
    )
    pick = scaled_mm.pick(few)
    if pick.row:
        return None
    found, remedy = "no table says where the kernel is faster than CUTLASS ({row})", "with a table that says so it fuses"
    return chain.refuse(RefusalKind.UNPROFITABLE, found, remedy, row=pick.sentence)


def _check_faster(chain: Chain, arguments: ScaledMmArgs) -> Refusal | None:
    """Where the number of tokens is known now, the choice between kernel and library can be made now."""
    a = arguments.a
    if a.dtype == torch.int8:
        if isinstance(a.size(0), torch.SymInt) or a.size(0) > FEW_TOKENS:
            found, remedy = "there are {tokens} tokens, for which the library's product is kept", "up to {few} it fuses"
            return chain.refuse(RefusalKind.UNPROFITABLE, found, remedy, tokens=a.size(0), few=FEW_TOKENS)
    elif not isinstance(a.size(0), torch.SymInt):
        pick = scaled_mm.pick(arguments)
        if "fallback" in (pick.config or {}):
            found = "for {tokens} tokens the library's product is the faster one ({row})"
            remedy = "where a table has the kernel faster, it fuses"
            return chain.refuse(RefusalKind.UNPROFITABLE, found, remedy, tokens=a.size(0), row=pick.sentence)
    return None


def _build(chain: Chain, emit: Emit) -> Outputs:
    op, inputs = chain[Matmul].op, chain.inputs
    w = inputs["b"] if op.b_is_rows else emit(aten.permute.default, inputs["b"], [1, 0])
    a_scale, w_scale = (_flat(emit, inputs[name]) for name in ("a_scale", "b_scale"))
    arguments = _fill_in(op, inputs["a"], w, a_scale, w_scale, inputs.get("bias"))
    return {(Matmul, "out"): emit(helion_kernel, *arguments, kernel=scaled_mm.name)}


def _fill_in(op: Matmul, a: Any, w: Any, a_scale: Any, w_scale: Any, bias: Any) -> ScaledMmArgs:
    return ScaledMmArgs(
        a=a,
        w=w,
        a_scale=a_scale,
        w_scale=w_scale,
        bias=bias,
        dtype=op.dtype,
        fast_accum=op.fast_accum,
        library=op.library,
    )


def _values(chain: Chain) -> ScaledMmArgs:
    """The kernel's arguments as fake tensors."""
    op, inputs = chain[Matmul].op, chain.inputs
    b, bias = value_of(inputs["b"]), inputs.get("bias")
    scales = [value_of(inputs[name]) for name in ("a_scale", "b_scale")]
    # Scales of other dtypes are those of an int8 product, which are converted.
    a_scale, w_scale = (scale.reshape(-1).to(torch.float32) if scale.is_contiguous() else scale for scale in scales)
    w = b if op.b_is_rows else b.t()
    return _fill_in(op, value_of(inputs["a"]), w, a_scale, w_scale, None if bias is None else value_of(bias))


def _flat(emit: Emit, scale: Node) -> Node:
    if value_of(scale).dtype != torch.float32:
        scale = emit(torch.ops.prims.convert_element_type.default, scale, torch.float32)
    return scale if value_of(scale).dim() == 1 else emit(aten.reshape.default, scale, [-1])
