"""What every fusion that ends in a quantiser asks of it and hands to its kernel."""

from __future__ import annotations

from typing import Any

import torch

from helion_compile.kernels.quant import FP8_MAX
from passes.fusion import Chain
from passes.meanings import Granularity, Matmul, Quantize, ScaleDivision, ScaleFormat, ScaleUse
from passes.source import Location

__all__ = ["quantize_arguments", "refuse_quantize", "refuse_readers"]

_USE = {ScaleUse.DIVIDE: "divide", ScaleUse.MULTIPLY_RECIPROCAL: "reciprocal"}


def quantize_arguments(chain: Chain) -> tuple[Any, ...]:
    """``scale_dtype, use, clamp, amax_floor, scale_floor``, as every quantising kernel takes them."""
    meaning = chain[Quantize].meaning
    return meaning.scale_dtype, _USE.get(meaning.use), meaning.clamp is not None, meaning.amax_floor, meaning.scale_floor


def refuse_quantize(chain: Chain, exact: bool) -> str | None:
    """Why the kernels cannot compute the chain's quantiser."""
    meaning = chain[Quantize].meaning
    if meaning.dtype != torch.float8_e4m3fn:
        return f"the values become {meaning.dtype}; the kernel makes torch.float8_e4m3fn"
    if meaning.qmax != FP8_MAX:
        return f"the values are brought to ±{meaning.qmax:g}; the kernel uses the whole range of the format, ±{FP8_MAX:g}"
    if meaning.clamp not in (None, (-FP8_MAX, FP8_MAX)):
        return f"the values are clamped to {meaning.clamp}; the kernel clamps to ±{FP8_MAX:g}"
    if meaning.granularity is not Granularity.TOKEN or not meaning.dynamic:
        kind = "" if meaning.dynamic else "static "
        return f"there is one {kind}scale {meaning.granularity.value}; the kernel takes one from the values of each token"
    if meaning.zero_point or meaning.scale_ub:
        found = "zero point" if meaning.zero_point else "upper bound of the scale"
        return f"the quantiser has a {found}; the kernel knows none"
    if meaning.division is not ScaleDivision.NUMBER:
        return f"amax / qmax is computed {meaning.division.value}; the kernel divides by a number"
    if meaning.amax_ceiling is not None:
        return f"the largest magnitude is bounded above by {meaning.amax_ceiling:g}; the kernel knows no such bound"
    if meaning.scale_format is not ScaleFormat.FP32:
        return f"the scales are {meaning.scale_format.value}; the kernel gives fp32"
    if meaning.use not in _USE:
        return f"the values are brought into range by {meaning.use.value}; the kernel divides or multiplies by 1 / scale"
    if exact and meaning.scale_dtype == torch.float64:
        return "the scale is computed in torch.float64, which the kernel keeps only to fp32; use numerics='default'"
    return None


def refuse_readers(chain: Chain, *, bit_equal: bool) -> str | None:
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
