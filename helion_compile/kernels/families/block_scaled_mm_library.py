# SPDX-License-Identifier: Apache-2.0
"""The libraries that multiply fp8 matrices with scales of blocks, and how each is called with ``block_scaled_mm``'s arguments.

Which layouts of the scales each takes is its own affair: the arguments are those of a graph that called it.
"""

from __future__ import annotations

import torch

__all__ = ["LIBRARIES", "TAKES_BIAS", "call_library", "list_loaded"]


def call_library(args, *, out=None):
    """The product of the library that the arguments name; into ``out``, one tensor, where that is given."""
    return LIBRARIES[args.library](args, None if out is None else out[0])


def list_loaded() -> list[str]:
    """The libraries whose operators this process has."""
    return ["torch", *(name for name, (space, each) in _OPERATORS.items() if hasattr(getattr(torch.ops, space), each))]


def _call_torch(args, out):
    """cuBLAS."""
    arguments = (args.a, args.w.t(), args.a_scale, args.w_scale.t(), args.bias, None, args.dtype)
    return torch._scaled_mm(*arguments) if out is None else torch.ops.aten._scaled_mm.out(*arguments, out=out)


def _call_cutlass(args, out):
    result = _allocate(args) if out is None else out
    torch.ops._C.cutlass_scaled_mm(result, args.a, args.w.t(), args.a_scale, args.w_scale.t(), args.bias)
    return result


def _call_deepgemm(args, out):
    """Scales that are powers of two it takes as such: rounding them again, which the last argument asks for, changes none."""
    result = _allocate(args) if out is None else out
    torch.ops.vllm.fp8_gemm_nt_op(args.a, args.a_scale, args.w, args.w_scale, result, False)
    return result


def _call_triton(args, out):
    operator = getattr(torch.ops.vllm, _TRITON)
    result = operator(args.a, args.w, args.a_scale, args.w_scale, [128, 128], args.dtype)
    return result if out is None else out.copy_(result)


def _call_torchao(args, out):
    result = torch.ops.ao.blockwise_fp8_gemm(args.a, args.a_scale, args.w, args.w_scale, 128)
    return result if out is None else out.copy_(result)


def _allocate(args):
    return torch.empty([args.a.size(0), args.w.size(0)], dtype=args.dtype, device=args.a.device)


_TRITON = "w8a8_triton_block_scaled_mm_func"
_OPERATORS = {
    "cutlass": ("_C", "cutlass_scaled_mm"),
    "deepgemm": ("vllm", "fp8_gemm_nt_op"),
    "triton": ("vllm", _TRITON),
    "torchao": ("ao", "blockwise_fp8_gemm"),
}
# torch's own; vLLM's operators of CUTLASS, DeepGEMM and Triton; torchao's Triton kernel
LIBRARIES = {
    "torch": _call_torch,
    "cutlass": _call_cutlass,
    "deepgemm": _call_deepgemm,
    "triton": _call_triton,
    "torchao": _call_torchao,
}
TAKES_BIAS = ("torch", "cutlass")
