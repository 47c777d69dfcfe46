"""What stands in for what is not there: fusions whose replacement is one call of plain torch, with the arithmetic of the
spelled code, and products of other libraries.
"""

from __future__ import annotations

import contextlib
import operator

import interpret
import torch
from capture import scaled_mm

from passes.fusion import Fusion
from passes.meanings import Matmul, Meaning, Norm, Quantize
from passes.values import known_equal, shape_of

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)

# Arguments of a node must be written in its code, which a Meaning cannot be: a node carries the index of one.
_MEANINGS: list[Meaning] = []


def number_of(meaning: Meaning) -> int:
    _MEANINGS.append(meaning)
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


def _build(function, chain, emit, *meanings):
    named = {name: node for meaning in meanings for name, node in chain[meaning].inputs.items() if name in chain.inputs}
    numbers = (number_of(chain[meaning].meaning) for meaning in meanings)
    call = emit(function, " ".join(named), *numbers, *(chain.inputs[name] for name in named))
    return {
        (meaning, name): emit(operator.getitem, call, OUTPUTS.index(name))
        for meaning, name, _ in chain.outputs()
        if meaning in meanings and (len(meanings) == 1 or chain.wanted(meaning, name))
    }


def build_norm_quantize(chain, emit):
    return _build(norm_quantize, chain, emit, Norm, Quantize)


def build_norm(chain, emit):
    return _build(norm_alone, chain, emit, Norm)


def build_quantize(chain, emit):
    return _build(quantize_alone, chain, emit, Quantize)


def build_matmul(chain, emit):
    names = ("a", "b", "a_scale", "b_scale", "bias")
    dtype = chain[Matmul].meaning.dtype
    return {(Matmul, "out"): emit(matmul_alone, *(chain.inputs.get(name) for name in names), dtype)}


def refuse_other_rows(chain):
    normed, quantised = (shape_of(chain[meaning].inputs["x"])[-1] for meaning in (Norm, Quantize))
    if chain[Quantize].meaning.dynamic and not known_equal(normed, quantised):
        return f"rows of {normed} elements are quantised in rows of {quantised}"
    return None


NORM_QUANTIZE = Fusion("norm_quantize", (Norm, Quantize), build_norm_quantize, refuse_other_rows)
NORM = Fusion("norm", (Norm,), build_norm)
QUANTIZE = Fusion("quantize", (Quantize,), build_quantize)
MATMUL = Fusion("matmul", (Matmul,), build_matmul)
ALL = (NORM_QUANTIZE, QUANTIZE)


@contextlib.contextmanager
def libraries():
    """Products of MSLK, FBGEMM and torchao with the schemas they have there, in plain torch: b [N, K], the result in bf16."""
    rowwise = (
        "f8f8bf16_rowwise(Tensor XQ, Tensor WQ, Tensor x_scale, Tensor w_scale, Tensor? bias=None, "
        "bool use_fast_accum=True, Tensor? output=None) -> Tensor"
    )
    blocks = "int block_m=128, int block_n=128, int block_k=128"
    with (
        torch.library._scoped_library("mslk", "FRAGMENT") as mslk,
        torch.library._scoped_library("ao", "FRAGMENT") as ao,
        torch.library._scoped_library("fbgemm", "FRAGMENT") as fbgemm,
    ):
        for library in (mslk, fbgemm):
            _define(library, rowwise, _rowwise)
        _define(
            fbgemm, f"f8f8bf16_blockwise(Tensor XQ, Tensor WQ, Tensor x_scale, Tensor w_scale, {blocks}) -> Tensor", _blocks
        )
        given = "Tensor a, Tensor a_s, Tensor b, Tensor b_s, int block_size=128"
        _define(ao, f"blockwise_fp8_gemm({given}) -> Tensor", lambda a, a_s, b, b_s, *_: _blocks(a, b, a_s, b_s))
        yield


def _define(library, schema, function):
    name = library.define(schema)
    library.impl(name, function, "CompositeExplicitAutograd")


def _rowwise(a, b, a_scale, b_scale, bias=None, *_):
    return scaled_mm(a, b.t(), a_scale.reshape(-1, 1), b_scale.reshape(1, -1), bias, out_dtype=torch.bfloat16)


def _blocks(a, b, a_scale, b_scale, *_):
    return scaled_mm(a, b.t(), interpret.spread(a_scale, a), interpret.spread(b_scale, b).t(), out_dtype=torch.bfloat16)
