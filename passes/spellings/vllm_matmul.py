"""Scaled products as vLLM's graphs hold them: operators of its libraries under ``auto_functionalized``.

::

    _C.cutlass_scaled_mm(out!, a, b, a_scales, b_scales, bias)       a [M, K], b [K, N], a_scales [M, 1], b_scales [N, 1]
    _C.cutlass_scaled_mm_azp(out!, …, azp_adj, azp, bias)            int8 with zero points
    vllm.fp8_gemm_nt_op(q_input, input_scale, weight, weight_scale, output!, use_deep_gemm_e8m0)    scales a block
"""

from __future__ import annotations

import torch
from torch.fx import Node

from passes.meanings import Matmul
from passes.region import Region
from passes.spellings.opaque import OpaqueWalk, name_of
from passes.values import dtype_name, dtype_of, same_shape, shape_of

__all__ = ["ANCHORS", "NAME", "read"]

NAME = "matmul"
_CUTLASS = "_C.cutlass_scaled_mm.default"
ANCHORS = frozenset({_CUTLASS, "_C.cutlass_scaled_mm_azp.default", "vllm.fp8_gemm_nt_op.default"})


def read(anchor: Node) -> Region | None:
    """The product that such an operator computes; None where nobody reads it."""
    walk = OpaqueWalk(anchor)
    if name_of(anchor) != _CUTLASS:
        kind = "scales a block" if "output" in walk.arguments else "zero points"
        walk.fail(anchor, f"{walk.name}, a product with {kind}, is not read yet; scales a row and a column fuse")
    if not (out := walk.new("out")):
        return None
    a, b, a_scale, b_scale = walk.tensors("a", "b", "a_scales", "b_scales")
    (bias,) = walk.get("bias")
    rows, columns = shape_of(a)[0], shape_of(b)[1]
    if not same_shape(shape_of(a_scale), (rows, 1)) or not same_shape(shape_of(b_scale), (columns, 1)):
        walk.fail(
            anchor,
            f"expected scales of shape [{rows}, 1] and [{columns}, 1], one a row and one a column, found "
            f"{list(shape_of(a_scale))} and {list(shape_of(b_scale))}: scales a tensor or a block are not read yet",
        )
    if dtype_of(a) != torch.float8_e4m3fn:
        walk.fail(anchor, f"a is {dtype_name(dtype_of(a))}; fp8 e4m3 can be read")
    walk.forget("out")
    # vLLM's CUTLASS kernels for fp8 are those with fast accumulation (csrc, c3x/scaled_mm_sm90_fp8_dispatch.cuh).
    meaning = Matmul(dtype=dtype_of(out[0]), bias=bias is not None, fast_accum=True)
    inputs = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale, "bias": bias}
    return walk.region(meaning, {name: node for name, node in inputs.items() if node is not None}, {"out": out})
