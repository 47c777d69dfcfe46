"""What becomes what: chains of meanings and the kernel that each becomes, in order of preference."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from helion_compile import lowering
from helion_compile.hop import helion_kernel
from helion_compile.kernel import HelionKernel
from helion_compile.kernels import quant, rms_norm_quant
from helion_compile.kernels.quant import FP8_MAX
from passes.fusion import Chain, Emit, Fusion
from passes.meanings import Matmul, Norm, NormRounding, Quantize, ScaleUse
from passes.source import Location
from passes.values import known_equal

__all__ = ["NUMERICS", "fusions", "identity"]

NUMERICS = ("default", "exact")

Outputs = Mapping[tuple[type, str], Node]

aten = torch.ops.aten


def fusions(numerics: str = "default") -> tuple[Fusion, ...]:
    """The fusions, best first.

    Args:
        numerics: "default", where kernels keep intermediate values in fp32 as Inductor's do, or "exact", where they keep
            every rounding step of the eager model.
    """
    lowering.register()  # the pass makes nodes while Inductor is at work, past the op's own tracing
    exact = numerics == "exact"
    return (
        Fusion(
            "rms_norm_quant",
            (Norm, Quantize),
            refuse=functools.partial(_refuse_norm_quant, exact=exact),
            build=functools.partial(_build_norm_quant, exact=exact),
        ),
        Fusion(
            "quant",
            (Quantize,),
            refuse=functools.partial(_refuse_quant, exact=exact),
            build=functools.partial(_build_quant, exact=exact),
        ),
    )


def identity(numerics: str) -> str:
    """Everything beyond the graph that decides what the fusions put there; part of the compile cache's key."""
    kernels = (rms_norm_quant, quant)
    return " ".join([numerics, *(f"{kernel.key} {kernel.table.fingerprint()}" for kernel in kernels)])


# --- norm -> quantise ---------------------------------------------------------------------------------------------------


def _refuse_norm_quant(chain: Chain, *, exact: bool) -> str | None:
    norm = chain[Norm].meaning
    if norm.dtype != norm.x_dtype:
        return f"the norm takes {norm.x_dtype} and gives {norm.dtype}; the kernel gives its input's dtype"
    return (
        _refuse_readers(chain, bit_equal=False)
        or _refuse_quantize(chain, exact)
        or _refused_by(rms_norm_quant, *_norm_quant_arguments(chain, exact, _rows_value, _value))
    )


def _build_norm_quant(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    arguments = _norm_quant_arguments(chain, exact, functools.partial(_rows, emit), _node)
    results = _unpack(emit, emit(helion_kernel, *arguments, kernel=rms_norm_quant.key))
    outputs = {(Quantize, "q"): next(results), (Quantize, "scale"): next(results)}
    if chain[Norm].meaning.residual:
        outputs[Norm, "sum"] = next(results)
    if chain.wanted(Norm, "out"):
        outputs[Norm, "out"] = next(results)
    return outputs


def _norm_quant_arguments(chain: Chain, exact: bool, rows: Any, value: Any) -> tuple[Any, ...]:
    norm, inputs = chain[Norm].meaning, chain.inputs
    return (
        rows(inputs["x"]),
        value(inputs["weight"]) if norm.weight_dtype else None,
        rows(inputs["residual"]) if norm.residual else None,
        norm.eps,
        norm.rounding is NormRounding.CAST_THEN_SCALE,
        *_quantize_arguments(chain),
        exact,
        bool(chain.wanted(Norm, "out")),
    )


# --- quantise alone -----------------------------------------------------------------------------------------------------


def _refuse_quant(chain: Chain, *, exact: bool) -> str | None:
    x = chain.inputs["x"]
    return (
        _refuse_readers(chain, bit_equal=exact)
        or _refuse_quantize(chain, exact)
        or _refused_by(quant, _rows_value(x), *_quantize_arguments(chain), exact)
    )


def _build_quant(chain: Chain, emit: Emit, *, exact: bool) -> Outputs:
    x = _rows(emit, chain.inputs["x"])
    results = _unpack(emit, emit(helion_kernel, x, *_quantize_arguments(chain), exact, kernel=quant.key))
    return {(Quantize, "q"): next(results), (Quantize, "scale"): next(results)}


_USE = {ScaleUse.DIVIDE: "divide", ScaleUse.MULTIPLY_RECIPROCAL: "reciprocal"}


def _quantize_arguments(chain: Chain) -> tuple[Any, ...]:
    meaning = chain[Quantize].meaning
    return meaning.scale_dtype, _USE.get(meaning.use), meaning.clamp, meaning.amax_floor, meaning.scale_floor


def _refuse_quantize(chain: Chain, exact: bool) -> str | None:
    meaning = chain[Quantize].meaning
    if meaning.dtype != torch.float8_e4m3fn:
        return f"the values become {meaning.dtype}; the kernel makes torch.float8_e4m3fn"
    if meaning.qmax != FP8_MAX:
        return f"the values are brought to ±{meaning.qmax:g}; the kernel uses the whole range of the format, ±{FP8_MAX:g}"
    if meaning.use not in _USE:
        return f"the values are brought into range by {meaning.use.value}; the kernel divides or multiplies by 1 / scale"
    if exact and meaning.scale_dtype == torch.float64:
        return "the scale is computed in torch.float64, which the kernel keeps only to fp32; use numerics='default'"
    return None


def _refuse_readers(chain: Chain, *, bit_equal: bool) -> str | None:
    """A matmul, and who gets the values from the graph, may meet a last-bit difference; other readers may depend on bytes."""
    if bit_equal:
        return None
    for reader in chain.readers(Quantize, "q"):
        in_matmul = reader.region is not None and isinstance(reader.region.meaning, Matmul)
        if not (reader.node.op == "output" or in_matmul):
            return (
                f"the fp8 bytes are also read by {reader.node.target} at {Location.of(reader.node)}, and a fused kernel may "
                f"change a byte by one step; only matmuls may read them"
            )
    return None


# --- tensors as the kernels take them -----------------------------------------------------------------------------------


def _rows(emit: Emit, node: Node) -> Node:
    """``node`` [..., K] as [M, K]."""
    value = _value(node)
    return node if value.dim() == 2 else emit(aten.reshape.default, node, [-1, value.size(-1)])


def _rows_value(node: Node) -> torch.Tensor | str:
    """The fake tensor that :func:`_rows` will give, or a sentence when that would be a copy."""
    value = _value(node)
    if value.dim() == 2:
        return value
    step = None  # from one row to the next, over the dimensions seen so far
    for size, stride in zip(reversed(value.shape[:-1]), reversed(value.stride()[:-1]), strict=True):
        if known_equal(size, 1):
            continue
        if step is not None and not known_equal(stride, step):
            shape = f"{node.name} {tuple(value.shape)} with strides {value.stride()}"
            return f"{shape} is no view of rows; make it contiguous before"
        step = stride * size
    return value.view(-1, value.size(-1))


def _refused_by(kernel: HelionKernel, *arguments: Any) -> str | None:
    return next((a for a in arguments if isinstance(a, str) and a not in _USE.values()), None) or kernel.refuse(*arguments)


def _value(node: Node) -> torch.Tensor:
    return node.meta["val"]


def _node(node: Node) -> Node:
    return node


def _unpack(emit: Emit, node: Node) -> Any:
    return (emit(operator.getitem, node, index) for index in range(len(node.meta["val"])))
