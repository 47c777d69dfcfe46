# SPDX-License-Identifier: Apache-2.0
"""What a node's value is known to be: dtype, shape, constants, and whether two nodes are equal."""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from helion_compile.passes.compat import OpOverload

__all__ = [
    "CASTS",
    "CLONES",
    "RESHAPES",
    "VIEWS",
    "cast_dtype",
    "describe",
    "dtype_of",
    "dtype_name",
    "holds_exactly",
    "known_equal",
    "lossless",
    "number",
    "only_reader",
    "origin",
    "rounded",
    "rounding_casts",
    "same_shape",
    "shape_of",
    "format_target",
    "tensor_text",
    "unshaped",
]

aten, prims = torch.ops.aten, torch.ops.prims

# Reads the same elements in the same row-major order under another shape: row i stays row i.
RESHAPES = frozenset(
    {
        aten.reshape.default,
        aten.view.default,
        aten._unsafe_view.default,
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.alias.default,
    }
)
# The same elements under the same indices, in memory of their own: what .contiguous() and .clone() leave in a graph.
CLONES = frozenset({aten.clone.default})
# Any node that only looks at another's elements; what is written through one is seen through the other.
VIEWS = RESHAPES | {
    aten.permute.default,
    aten.t.default,
    aten.transpose.int,
    aten.expand.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.as_strided.default,
    aten.detach.default,
    operator.getitem,
}
CASTS = frozenset({prims.convert_element_type.default, aten._to_copy.default})

_NAMES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float8_e4m3fn: "fp8 e4m3",
    torch.float8_e5m2: "fp8 e5m2",
    torch.float8_e4m3fnuz: "fp8 e4m3fnuz",
    torch.float8_e5m2fnuz: "fp8 e5m2fnuz",
    torch.bool: "bool",
}
# dtype -> (bits of the mantissa, smallest exponent, largest exponent): a float of the left fits in one of the right
# when it is nowhere larger.
_FLOATS = {
    torch.float16: (10, -24, 15),
    torch.bfloat16: (7, -133, 127),
    torch.float32: (23, -149, 127),
    torch.float64: (52, -1074, 1023),
}


def dtype_of(node: Any) -> torch.dtype | None:
    """The dtype of a node's tensor, None for whatever is no tensor or has no fake value."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value.dtype if isinstance(value, torch.Tensor) else None


def shape_of(node: Any) -> tuple[int | torch.SymInt, ...] | Any:  # Any, where None would say more: most callers know a tensor
    """The shape of a node's tensor, None for whatever is no tensor or has no fake value."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def known_equal(left: Any, right: Any) -> bool:
    """Whether two sizes are equal for every size of the inputs.  Adds no guard."""
    if type(left) is int and type(right) is int:
        return left == right
    return statically_known_true(left == right)


def same_shape(left: Sequence[Any] | None, right: Sequence[Any] | None) -> bool:
    """Whether two shapes are equal for every size of the inputs.  Adds no guard."""
    if left is None or right is None or len(left) != len(right):
        return False
    return all(map(known_equal, left, right))


def cast_dtype(node: Node) -> torch.dtype | None:
    """The dtype that a cast converts to, None for any other node."""
    return dtype_of(node) if node.target in CASTS else None


def rounding_casts(node: Node, dtypes: Collection[torch.dtype]) -> tuple[Node, ...]:
    """The casts of ``node`` to one of ``dtypes``, if every reader is such a cast, all to one dtype; else none."""
    found = {cast_dtype(user) for user in node.users}
    return tuple(node.users) if len(found) == 1 and found <= set(dtypes) else ()


def only_reader(node: Node) -> Node | None:
    """The node that reads ``node``, if it is the only one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def holds_exactly(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every value of ``narrow`` is a value of ``wide``: a cast that loses nothing."""
    if wide == narrow:
        return True
    if wide not in _FLOATS or narrow not in _FLOATS:
        return False
    wide_bits, wide_low, wide_high = _FLOATS[wide]
    bits, low, high = _FLOATS[narrow]
    return bits <= wide_bits and wide_low <= low and high <= wide_high


def lossless(value: Any) -> Any:
    """The narrowest node that ``value`` equals bit for bit: what is behind its casts that lose nothing."""
    while isinstance(value, Node) and value.target in CASTS:
        source = value.args[0]
        if not isinstance(source, Node) or not holds_exactly(dtype_of(value), dtype_of(source)):
            break
        value = source
    return value


def unshaped(value: Any) -> Any:
    """The node whose elements ``value`` shows under another shape, in the same order."""
    while isinstance(value, Node) and value.target in RESHAPES:
        value = value.args[0]
    return value


def origin(value: Any) -> Any:
    """What ``value`` was before all views and casts, for naming it in a sentence."""
    while isinstance(value, Node) and value.target in RESHAPES | CASTS:
        value = value.args[0]
    return value


def number(value: Any) -> float | None:
    """A Python number, or the one that fills a constant node (``aten.full``), as a float; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, Node):
        if value.target == aten.full.default:
            return number(value.args[1])
        if value.target == aten.scalar_tensor.default:
            return number(value.args[0])
        if cast_dtype(value) in _FLOATS:
            return number(value.args[0])
    return None


def rounded(value: float, dtype: torch.dtype) -> float:
    """``value`` as an operation in ``dtype`` uses it, written as the shortest decimal that fp32 rounds to the same.

    1e-06 and 9.999999974752427e-07 are one number in fp32; a floor of 1e-12 is 0 in fp16.
    """
    exact = float(torch.tensor(value, dtype=torch.float64).to(dtype))
    if dtype == torch.float64 or exact != exact or abs(exact) == float("inf"):
        return exact
    for digits in range(1, 10):
        short = float(f"{exact:.{digits}g}")
        if struct.pack("f", short) == struct.pack("f", exact):
            return short
    return exact


def dtype_name(dtype: torch.dtype | None) -> str:
    """ "bf16", "fp8 e4m3", "int8"."""
    return _NAMES.get(dtype, str(dtype).removeprefix("torch."))


def tensor_text(node: Node) -> str:
    """ "bf16[2, 8, 256]", with symbols where a size is dynamic."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return "?"
    try:
        return _tensor_text(value.dtype, value.shape)
    except TypeError:  # a symbol has no hash
        return _tensor_text.__wrapped__(value.dtype, value.shape)


@functools.lru_cache(4096)
def _tensor_text(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{dtype_name(dtype)}[{', '.join(map(str, shape))}]"


def describe(value: Any) -> str:
    """A node as a sentence names it: "aten.mul.Tensor (mul_3)", "the graph input arg2_1", "the number 3"."""
    if not isinstance(value, Node):
        return f"the number {value}" if isinstance(value, (int, float)) else f"{value!r}"
    if value.op == "placeholder":
        return f"the graph input {value.name}"
    if value.op == "get_attr":
        return f"the constant {value.name}"
    return f"{format_target(value.target)} ({value.name})"


def format_target(target: Any) -> str:
    """A target as aten names it: "aten.mul.Tensor"."""
    return str(target) if isinstance(target, OpOverload) else getattr(target, "__name__", str(target))
