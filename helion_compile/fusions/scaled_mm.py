"""Scaled product: ``scaled_mm``, where tables or the kernel's own judgement find it faster than the library's.

The library is the one whose product the graph has: torch's, or vLLM's CUTLASS, against which only tables count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.configs.gpu import Gpu
from helion_compile.fusions.operands import Outputs, value_of
from helion_compile.graph.hop import helion_kernel
from helion_compile.kernels import scaled_mm
from helion_compile.kernels.families.scaled_mm import FEW_TOKENS
from helion_compile.passes.rewrite.fusion import Chain, Emit, Fusion, Leave
from helion_compile.passes.semantics import Granularity, Matmul

__all__ = ["KERNELS", "fusion"]

aten = torch.ops.aten

KERNELS = (scaled_mm,)
ARCH = "sm_90"  # whose memory the default configs fill; others need tables, and those rows of their own
DEVICES = ("cuda",)  # where it can be faster than the library's product


def fusion(*, exact: bool) -> Fusion:
    """A Matmul as one ``scaled_mm``; how many tokens there are at run time decides whether that calls the library."""
    return Fusion("scaled_mm", (Matmul,), refuse=lambda chain: _refuse(chain, exact), build=_build)


def _refuse(chain: Chain, exact: bool) -> str | None:
    op = chain[Matmul].op
    if exact:
        return Leave("the kernel sums in another order than the library; numerics='exact' keeps the library's product")
    device = value_of(chain.inputs["a"]).device.type
    if device not in DEVICES:
        return Leave(f"on a {device} the kernel has nothing to gain over the library's product")
    if device == "cuda" and torch.cuda.is_available() and Gpu.current().arch != ARCH:
        return Leave(f"the kernel's default configs are for {ARCH}, and this GPU is {Gpu.current().arch}")
    kinds = {op.a_scales, op.b_scales}
    if Granularity.GROUP in kinds:
        return "the scales are those of blocks; the kernel takes one a row and a column, or one a tensor"
    if op.zero_points:
        return "the rows of a have zero points; without them it fuses"
    if op.scale_dtype != torch.float32 and op.operands != torch.int8:
        return f"the scales are {op.scale_dtype}; the kernel takes torch.float32"
    if len(kinds) > 1 and op.operands != torch.int8:
        return "one operand has a scale for each row and the other one for all; the kernel's library takes two of a kind"
    arguments = _values(chain)
    return scaled_mm.check_supported(*arguments) or _refuse_unmeasured(arguments) or _refuse_slower(arguments)


def _refuse_unmeasured(arguments: tuple[Any, ...]) -> str | None:
    """CUTLASS is fast for few tokens too: only where a table compares with it can the kernel be known to be faster."""
    a, w, a_scale, *rest = arguments
    if rest[-1] != "cutlass":
        return None
    by_tensor = statically_known_true(a_scale.size(0) == 1)
    few = a.new_empty(FEW_TOKENS, a.size(1)), w, a_scale if by_tensor else a_scale.new_empty(FEW_TOKENS), *rest
    pick = scaled_mm.pick(few)
    return None if pick.row else Leave(f"no table says where the kernel is faster than CUTLASS ({pick.sentence})")


def _refuse_slower(arguments: tuple[Any, ...]) -> str | None:
    """Where the number of tokens is known now, the choice between kernel and library can be made now."""
    a = arguments[0]
    if a.dtype == torch.int8:
        if isinstance(a.size(0), torch.SymInt) or a.size(0) > FEW_TOKENS:
            return Leave(f"there are {a.size(0)} tokens; for more than {FEW_TOKENS} int8 products stay with the library")
    elif not isinstance(a.size(0), torch.SymInt):
        pick = scaled_mm.pick(arguments)
        if "alternative" in (pick.config or {}):
            return Leave(f"for {a.size(0)} tokens the library's product is the faster one ({pick.sentence})")
    return None


def _build(chain: Chain, emit: Emit) -> Outputs:
    op, inputs = chain[Matmul].op, chain.inputs
    w = inputs["b"] if op.b_is_rows else emit(aten.permute.default, inputs["b"], [1, 0])
    scales = [_flat(emit, inputs[name]) for name in ("a_scale", "b_scale")]
    arguments = (inputs["a"], w, *scales, inputs.get("bias"), op.dtype, op.fast_accum, op.library)
    return {(Matmul, "out"): emit(helion_kernel, *arguments, kernel=scaled_mm.name)}


def _values(chain: Chain) -> tuple[Any, ...]:
    """The kernel's arguments as fake tensors."""
    op, inputs = chain[Matmul].op, chain.inputs
    b, bias = value_of(inputs["b"]), inputs.get("bias")
    scales = [value_of(inputs[name]) for name in ("a_scale", "b_scale")]
    # Scales of other dtypes are those of an int8 product, which are converted.
    scales = [scale.reshape(-1).to(torch.float32) if scale.is_contiguous() else scale for scale in scales]
    return (
        value_of(inputs["a"]),
        b if op.b_is_rows else b.t(),
        *scales,
        None if bias is None else value_of(bias),
        op.dtype,
        op.fast_accum,
        op.library,
    )


def _flat(emit: Emit, scale: Node) -> Node:
    if value_of(scale).dtype != torch.float32:
        scale = emit(torch.ops.prims.convert_element_type.default, scale, torch.float32)
    return scale if value_of(scale).dim() == 1 else emit(aten.reshape.default, scale, [-1])
