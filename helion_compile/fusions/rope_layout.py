# SPDX-License-Identifier: Apache-2.0
"""What every fusion that rotates heads asks of a chain, and the tensors that it hands to its kernel.

Letters: ``B`` sequences, ``S`` tokens, ``H`` heads, ``D`` elements of a head, ``R`` of them rotated.  Where all tokens stand
in one row, as in vLLM, values have no B: [S, H, D]; they are taken for those of one sequence.

Inductor makes one kernel of a rotary embedding too, and puts it into that of a pointwise reader (the write to a KV cache, the
copy that repeats keys for groups of queries) or producer.  So a fusion pays only where x lies in memory anyway and whoever
reads the result wants it there: matmuls, attention, the graph's results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from helion_compile.fusions.inductor_kernels import lies_in_memory, needs_copy
from helion_compile.fusions.operands import Operands, value_of
from helion_compile.kernels.device.rope import TABLES
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import RESHAPES, VIEWS, dtype_of, known_equal, shape_of
from helion_compile.passes.rewrite.fusion import Chain, Emit
from helion_compile.passes.semantics import ComplexRope, Rope, RopePairs, RopeTable

__all__ = ["Heads", "check_heads", "check_product", "head_arguments", "heads_of", "in_the_shape_of"]

aten, prims = torch.ops.aten, torch.ops.prims


class Heads(NamedTuple):
    """Where heads and tokens are in the value that is rotated, seen in four dimensions, and how the result lies in memory."""

    dim: int  # of the heads in the rotated value: 1 in [B, H, S, D], 2 in [B, S, H, D]
    heads_first: bool  # the result lies in memory as [B, H, S, D]


def heads_of(chain: Chain, op: type[Rope | ComplexRope]) -> Heads | Refusal:
    """The layout of a chain that ends in ``op``, a rotary embedding; refused where no kernel takes it."""
    match = chain[op]
    out = value_of(match.outputs["out"][0])
    shape, strides = list(out.shape), list(out.stride())
    if len(shape) not in (3, 4):
        found, remedy = "the result is {shape}", "[B, S, H, D], [B, H, S, D] and [S, H, D] fuse"
        return chain.refuse(RefusalKind.SHAPE, found, remedy, shape=tuple(shape))
    if len(shape) == 3:
        shape, strides = [1, *shape], [0, *strides]
    tables = [shape_of(match.inputs[name]) for name in ("cos", "sin", "freqs") if name in match.inputs]
    padded = [(*[1] * (4 - len(table)), *table) for table in tables]
    possible = (1,) if match.op.transposed else (2, 1)
    fitting = [dim for dim in possible if all(known_equal(table[dim], 1) for table in padded)]
    if not fitting:
        found, remedy = "the angles have shape {angles} for {shape}", "angles that all heads share fuse"
        return chain.refuse(RefusalKind.SHAPE, found, remedy, angles=tables[0], shape=tuple(shape))
    for dim in fitting:
        for heads_first in (False, True):
            if _lies(shape, strides, dim, heads_first):
                return Heads(dim, heads_first)
    found, remedy = "the result {shape} lies in memory with strides {strides}", "contiguous [B, S, H, D] or [B, H, S, D] fuses"
    return chain.refuse(RefusalKind.SHAPE, found, remedy, shape=tuple(shape), strides=out.stride())


def check_heads(chain: Chain, op: type[Rope | ComplexRope]) -> Refusal | None:
    """Why a kernel of its own would be more work than the code that Inductor makes."""
    match = chain[op]
    if match.op.dtype != match.op.x_dtype:
        found, remedy = "x is {x} and the result {out}", "of one dtype they fuse"
        return chain.refuse(RefusalKind.DTYPE, found, remedy, x=match.op.x_dtype, out=match.op.dtype)
    producer = chain.inputs["x"]
    while producer.target in VIEWS:
        producer = producer.args[0]
    if not lies_in_memory(producer):
        return chain.refuse(
            RefusalKind.INDUCTOR,
            "x comes from {producer} at {where}, of which Inductor makes one kernel with this",
            "from a matmul or a graph's input it fuses",
            producer=str(producer.target),
            where=Location.of(producer),
        )
    if op is ComplexRope:
        return None  # Inductor puts no complex product into a kernel
    for reader in chain.readers(op, "out"):
        copies = any(view.target in RESHAPES and needs_copy(view) for view in reader.views)
        if copies or not lies_in_memory(reader.node):
            return chain.refuse(
                RefusalKind.INDUCTOR,
                "the result is {read} {reader} at {where}, into whose kernel Inductor puts this, which would else be written "
                "and read once more",
                "read by attention, a matmul or the graph's results it fuses",
                read="reshaped, which copies it, for" if copies else "read by",
                reader=str(reader.node.target),
                where=Location.of(reader.node),
            )
    return None


def check_product(chain: Chain, exact: bool) -> Refusal | None:
    """Why no kernel computes a complex product as the model does."""
    op = chain[ComplexRope].op
    if exact:
        found = "how a complex product is rounded is the device's own, which the kernel does not keep"
        return chain.refuse(RefusalKind.NUMERICS, found, "with numerics='default' it fuses")
    if op.computed == torch.float64 and op.x_dtype == torch.float32:
        found, remedy = "x is fp32 and its product of complex128, of which the kernel would lose bits", "x of 16 bits fuses"
        return chain.refuse(RefusalKind.NUMERICS, found, remedy)
    return None


def head_arguments(chain: Chain, op: type[Rope | ComplexRope], heads: Heads, operands: Operands) -> dict[str, Any]:
    """x [B, S, H, D] and cos1, sin1, cos2, sin2 [B, S, R / 2], as views, by the names of the kernels' arguments."""
    match, call = chain[op], operands.call
    x = operands.of(chain.inputs["x"])
    if isinstance(match.op, ComplexRope):
        both = call(aten.view_as_real.default, operands.of(match.inputs["freqs"]))
        if dtype_of(match.inputs["freqs"]) == torch.complex128:
            both = call(prims.convert_element_type.default, both, torch.float32)
        cos, sin = (call(aten.select.int, both, -1, index) for index in (0, 1))
    else:
        cos, sin = operands.of(match.inputs["cos"]), operands.of(match.inputs["sin"])
    shape = shape_of(match.outputs["out"][0])
    if len(shape) == 3:
        shape, x = (1, *shape), call(aten.unsqueeze.default, x, 0)
    tokens = [(dim, shape[dim]) for dim in range(3) if dim != heads.dim]
    if not match.op.transposed and heads.dim == 1:
        x = call(aten.permute.default, x, [0, 2, 1, 3])
    elif len(_shape(x)) != 4:  # [B, S, H * D] of a norm over all heads
        sizes = [_size(call, x, 0), _size(call, x, 1), shape[heads.dim], shape[3]]
        x = call(aten.reshape.default, x, sizes)
    tables = []
    for table in (cos, sin):
        for _ in range(4 - len(_shape(table))):
            table = call(aten.unsqueeze.default, table, 0)
        table = call(aten.select.int, table, heads.dim, 0)
        found = _shape(table)
        if not all(known_equal(found[index], size) for index, (_, size) in enumerate(tokens)):
            table = call(aten.expand.default, table, [_size(call, x, index) for index in (0, 1)] + [found[-1]])
        tables.append(table)
    return {"x": x, **dict(zip(TABLES, _first_and_second(match.op, tables[0], tables[1], call), strict=True))}


def in_the_shape_of(heads: Heads, result: Node, emit: Emit) -> Node:
    """What the kernel returned, in the order of dimensions of the value that it replaces."""
    permuted = heads.heads_first != (heads.dim == 1)
    return emit(aten.permute.default, result, [0, 2, 1, 3]) if permuted else result


def _size(call: Callable[..., Any], x: Any, dim: int) -> Any:
    size = _shape(x)[dim]
    return call(aten.sym_size.int, x, dim) if isinstance(size, torch.SymInt) else size


def _shape(value: Any) -> Any:
    return shape_of(value) if isinstance(value, Node) else value.shape


def _first_and_second(op: Rope | ComplexRope, cos: Any, sin: Any, call: Callable[..., Any]) -> tuple[Any, ...]:
    """cos1, sin1, cos2, sin2 of tables [B, S, R] or [B, S, R / 2]."""
    if isinstance(op, ComplexRope) or op.table is RopeTable.PAIR:
        return cos, sin, cos, sin
    rotary_dim = op.rotary_dim
    spots = ((0, rotary_dim // 2, 1), (rotary_dim // 2, rotary_dim, 1))
    if op.pairs is RopePairs.INTERLEAVED:
        spots = ((0, rotary_dim, 2), (1, rotary_dim, 2))
    return tuple(call(aten.slice.Tensor, table, 2, *spot) for spot in spots for table in (cos, sin))


def _lies(shape: Sequence[Any], strides: Sequence[Any], dim: int, heads_first: bool) -> bool:
    """Whether a value with its heads in ``dim`` lies in memory as [B, S, H, D], or as [B, H, S, D] if ``heads_first``."""
    order = (0, 2, 1, 3) if heads_first != (dim == 1) else (0, 1, 2, 3)
    expected: Any = 1
    for size, stride in ((shape[index], strides[index]) for index in reversed(order)):
        if not known_equal(size, 1) and not known_equal(stride, expected):
            return False
        expected = expected * size
    return True
