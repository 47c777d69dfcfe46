"""Scaled products as vLLM's graphs hold them: operators of its libraries under ``auto_functionalized``.

::

    _C.cutlass_scaled_mm(out!, a, b, a_scales, b_scales, bias)       a [M, K], b [K, N]; scales [M, 1] and [N, 1], or single
    _C.cutlass_scaled_mm_azp(out!, …, azp_adj, azp, bias)            int8 with zero points
    vllm.fp8_gemm_nt_op(q_input, input_scale, weight, weight_scale, output!, …)      weight [N, K], scales of blocks
"""

from __future__ import annotations

import torch
from torch.fx import Node

from passes.meanings import Granularity, Matmul
from passes.region import Region
from passes.spellings.matmul import granularity
from passes.spellings.opaque import OpaqueWalk, name_of
from passes.values import dtype_name, dtype_of, shape_of

__all__ = ["ANCHORS", "NAME", "read"]

NAME = "matmul"
_CUTLASS = "_C.cutlass_scaled_mm.default"
_ZERO_POINTS = "_C.cutlass_scaled_mm_azp.default"
_BLOCKS = "vllm.fp8_gemm_nt_op.default"
ANCHORS = frozenset({_CUTLASS, _ZERO_POINTS, _BLOCKS})


def read(anchor: Node) -> Region | None:
    """The product that such an operator computes; None where nobody reads it."""
    walk = OpaqueWalk(anchor)
    name = name_of(anchor)
    if name == _ZERO_POINTS:
        walk.fail(anchor, f"{walk.name}, a product with zero points, is not read yet; one without can be")
    blocks = name == _BLOCKS
    if not (out := walk.new("output" if blocks else "out")):
        return None
    names = ("q_input", "weight", "input_scale", "weight_scale") if blocks else ("a", "b", "a_scales", "b_scales")
    a, b, a_scale, b_scale = walk.tensors(*names)
    (bias,) = (None,) if blocks else walk.get("bias")
    if dtype_of(a) != torch.float8_e4m3fn:
        walk.fail(anchor, f"a is {dtype_name(dtype_of(a))}; fp8 e4m3 can be read")
    columns = shape_of(b)[0 if blocks else 1]
    kind = Granularity.GROUP if blocks else granularity(walk, shape_of(a)[0], columns, a_scale, b_scale)
    walk.forget("output" if blocks else "out")
    meaning = Matmul(
        dtype=dtype_of(out[0]),
        a_scales=kind,
        b_scales=kind,
        b_is_rows=blocks,
        bias=bias is not None,
        # vLLM's CUTLASS kernels for fp8 are those with fast accumulation (csrc, c3x/scaled_mm_sm90_fp8_dispatch.cuh).
        fast_accum=not blocks,
    )
    inputs = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale, "bias": bias}
    return walk.region(meaning, {name: node for name, node in inputs.items() if node is not None}, {"out": out})
