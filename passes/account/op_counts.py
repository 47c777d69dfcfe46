# SPDX-License-Identifier: Apache-2.0
"""What in a graph looks like a norm, a quantiser or a GEMM, by the operations alone.

Matching says what nodes *compute*; this only counts operations that chains are built around.  Where nothing was fused it
shows what there would have been.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import CASTS, cast_dtype, dtype_name, dtype_of, format_target

__all__ = ["Found", "inventory"]

aten = torch.ops.aten

_NORM = re.compile(r"rms_?norm|layer_?norm|group_norm|batch_norm|rsqrt|var_mean", re.IGNORECASE)
_QUANTIZE = re.compile(r"quant|fp8|int8", re.IGNORECASE)
_PRODUCT = re.compile(r"(?<![a-z])(?:add)?b?mm(?![a-z])|matmul|linear|gemm|_mm\b|conv", re.IGNORECASE)
_NARROW = frozenset(
    {torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz}
)


@dataclass(frozen=True)
class Found:
    """Operations of one kind in a graph."""

    kind: str  # "norm", "quantize" or "matmul"
    operation: str  # "aten.mm.default bf16", "cast to fp8 e4m3"
    count: int
    first: Location
    cast: str = ""  # "to" or "from" a dtype of 8 bits, where the operation is a cast


def inventory(graph: Graph) -> list[Found]:
    """Every kind of operation that a norm, a quantiser or a GEMM is built around, the most frequent first."""
    nodes: dict[tuple[str, str, str], list[Node]] = {}
    for node in graph.nodes:
        if node.op == "call_function" and (key := _key(node)):
            nodes.setdefault(key, []).append(node)
    found = [Found(kind, operation, len(each), Location.of(each[0]), cast) for (kind, operation, cast), each in nodes.items()]
    return sorted(found, key=lambda item: -item.count)


def _key(node: Node) -> tuple[str, str, str] | None:
    """Kind, operation, and which way it casts."""
    if node.target in CASTS:
        to = cast_dtype(node)
        if to in _NARROW:
            return "quantize", f"cast to {dtype_name(to)}", "to"
        source = node.args[0] if isinstance(node.args[0], Node) else None
        if dtype_of(source) in _NARROW:
            return "quantize", f"cast from {dtype_name(dtype_of(source))}", "from"
        return None
    kind, name = _kind_of(node.target)
    if kind is None:
        return None
    dtype = dtype_of(node.args[0]) if kind == "matmul" and node.args else None
    return kind, f"{name} of {dtype_name(dtype)}" if dtype else name, ""


@functools.lru_cache(4096)
def _kind_of(target: Any) -> tuple[str | None, str]:
    name = format_target(target)
    # Which function a name belongs to is clear, but rsqrt also stands alone, and a product may quantise inside.
    for kind, pattern in (("norm", _NORM), ("matmul", _PRODUCT), ("quantize", _QUANTIZE)):
        if pattern.search(name):
            return kind, name
    return None, name
