# SPDX-License-Identifier: Apache-2.0
"""What stands in for what is not there: fusions whose replacement is one call of plain torch, with the arithmetic of the
written code, and operators of other libraries.
"""

from __future__ import annotations

import contextlib
import operator

import torch

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.ir.values import known_equal, shape_of
from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.semantics import Matmul, Norm, Quantize, SemanticOp
from tests.support import interpret
from tests.support.capture import scaled_mm

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)

# Arguments of a node must be written in its code, which a Meaning cannot be: a node carries the index of one.
_MEANINGS: list[SemanticOp] = []


def number_of(op: SemanticOp) -> int:
    _MEANINGS.append(op)
    return len(_MEANINGS) - 1


def norm_quantize(names, norm, quantize, *values):
    """What the stub puts into the graph: out, sum, q, scale, zero in one call, None for what there is not."""
    given = dict(zip(names.split(), values, strict=True))
    of_quantizer = {name: given.pop(name) for name in ("scale", "scale_ub") if name in given}
    normed = interpret.norm(_MEANINGS[norm], **given)
    quantised = interpret.quantize(_MEANINGS[quantize], normed["out"], **of_quantizer)
    return _listed({**normed, **quantised})


def norm_alone(names, norm, *values):
    return _listed(interpret.norm(_MEANINGS[norm], **dict(zip(names.split(), values, strict=True))))


def quantize_alone(names, quantize, *values):
    return _listed(interpret.quantize(_MEANINGS[quantize], **dict(zip(names.split(), values, strict=True))))


OUTPUTS = ("out", "sum", "q", "scale", "zero")


def _listed(outputs):
    return tuple(outputs.get(name) for name in (OUTPUTS if "zero" in outputs else OUTPUTS[:-1]))


def matmul_alone(a, b, a_scale, b_scale, bias, dtype):
    return scaled_mm(a, b, a_scale, b_scale, bias, out_dtype=dtype)


def _build(function, chain, emit, *ops):
    named = {name: node for op in ops for name, node in chain[op].inputs.items() if name in chain.inputs}
    numbers = (number_of(chain[op].op) for op in ops)
    call = emit(function, " ".join(named), *numbers, *(chain.inputs[name] for name in named))
    return {
        (op, name): emit(operator.getitem, call, OUTPUTS.index(name))
        for op, name, _ in chain.outputs()
        if op in ops and (len(ops) == 1 or chain.copies_read(op, name))
    }


def build_norm_quantize(chain, emit):
    return _build(norm_quantize, chain, emit, Norm, Quantize)


def build_norm(chain, emit):
    return _build(norm_alone, chain, emit, Norm)


def build_quantize(chain, emit):
    return _build(quantize_alone, chain, emit, Quantize)


def build_matmul(chain, emit):
    names = ("a", "b", "a_scale", "b_scale", "bias")
    dtype = chain[Matmul].op.dtype
    return {(Matmul, "out"): emit(matmul_alone, *(chain.inputs.get(name) for name in names), dtype)}


def refuse_other_rows(chain):
    normed, quantised = (shape_of(chain[op].inputs["x"])[-1] for op in (Norm, Quantize))
    if chain[Quantize].op.dynamic and not known_equal(normed, quantised):
        found, remedy = "rows of {normed} elements are quantised in rows of {quantised}", "rows that stay as they are fuse"
        return chain.refuse(RefusalKind.SHAPE, found, remedy, normed=normed, quantised=quantised)
    return None


NORM_QUANTIZE = Fusion("norm_quantize", (Norm, Quantize), build_norm_quantize, refuse_other_rows)
NORM = Fusion("norm", (Norm,), build_norm)
QUANTIZE = Fusion("quantize", (Quantize,), build_quantize)
MATMUL = Fusion("matmul", (Matmul,), build_matmul)
ALL = (NORM_QUANTIZE, QUANTIZE)


@contextlib.contextmanager
def libraries():
    """Operators of MSLK, FBGEMM and torchao with the schemas they have there, in plain torch.

    Products have b [N, K] and give bf16; quantisers give q fp8 e4m3 [..., K] and scales fp32 [...].
    """
    with contextlib.ExitStack() as stack:
        for schema, function in _OPERATORS.items():
            namespace, _, rest = schema.partition("::")
            library = stack.enter_context(torch.library._scoped_library(namespace, "FRAGMENT"))
            library.impl(library.define(rest), function, "CompositeExplicitAutograd")
        yield


def _rowwise(a, b, a_scale, b_scale, bias=None, *_):
    return scaled_mm(a, b.t(), a_scale.reshape(-1, 1), b_scale.reshape(1, -1), bias, out_dtype=torch.bfloat16)


def _blocks(a, b, a_scale, b_scale, *_):
    return scaled_mm(a, b.t(), interpret.spread(a_scale, a), interpret.spread(b_scale, b).t(), out_dtype=torch.bfloat16)


def _triton_row(a, scale_ub=None, *_):
    amax = a.abs().amax(-1).float()
    amax = (amax if scale_ub is None else torch.minimum(amax, scale_ub)).clamp(min=1e-12)
    factor = torch.full_like(amax, 448.0) / amax
    return (a.float() * factor.unsqueeze(-1)).clamp(-448, 448).to(torch.float8_e4m3fn), 1 / factor


def _per_row(input, bs=None, scale_ub=None, *_):
    amax = input.abs().amax(-1).float()
    amax = amax if scale_ub is None else torch.minimum(amax, scale_ub)
    scale = (amax / torch.tensor(448.0)).clamp(min=1 / (448 * 512))
    return [(input.float() / scale.unsqueeze(-1)).clamp(-448, 448).to(torch.float8_e4m3fn), scale]


_ROWWISE = (
    "f8f8bf16_rowwise(Tensor XQ, Tensor WQ, Tensor x_scale, Tensor w_scale, Tensor? bias=None, bool use_fast_accum=True, "
    "Tensor? output=None) -> Tensor"
)
_BLOCKWISE = (
    "f8f8bf16_blockwise(Tensor XQ, Tensor WQ, Tensor x_scale, Tensor w_scale, int block_m=128, int block_n=128, "
    "int block_k=128) -> Tensor"
)
_TRITON_ROW = (
    "quantize_fp8_row(Tensor a, Tensor? scale_ub=None, Tensor? zero_start_index_M=None, bool use_triton=True, "
    "Device? output_device=None, int? align_rows_to=None) -> (Tensor, Tensor)"
)
_PER_ROW = (
    "quantize_fp8_per_row(Tensor input, Tensor? bs=None, Tensor? scale_ub=None, ScalarType? output_dtype=None, "
    "bool stochastic_rounding=False) -> Tensor[]"
)
_OPERATORS = {
    f"mslk::{_ROWWISE}": _rowwise,
    f"fbgemm::{_ROWWISE}": _rowwise,
    f"fbgemm::{_BLOCKWISE}": _blocks,
    "ao::blockwise_fp8_gemm(Tensor a, Tensor a_s, Tensor b, Tensor b_s, int block_size=128) -> Tensor": (
        lambda a, a_scale, b, b_scale, *_: _blocks(a, b, a_scale, b_scale)
    ),
    f"triton::{_TRITON_ROW}": _triton_row,
    f"fbgemm::{_PER_ROW}": _per_row,
    f"mslk::{_PER_ROW}": _per_row,
}
