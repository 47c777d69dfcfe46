# SPDX-License-Identifier: Apache-2.0
"""The gated sum in front of a norm, as diffusion transformers write it, whose gate all tokens of a batch share.

::

    add(residual, mul(x, gate)) → norm                                         Flux: each step rounded
    add(residual.float(), mul(x, gate in fp32)) → cast to x's dtype → norm     Wan: rounded once

Gives ``residual`` and ``gate_dtype`` of a ``Norm``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.fx import Node

from helion_compile.passes.ir.values import CASTS, dtype_of, lossless, only_reader, same_shape, shape_of
from helion_compile.passes.match.match import Match
from helion_compile.passes.patterns.batch_rows import is_row_of_batch
from helion_compile.passes.patterns.matcher import ADD, MUL

__all__ = ["with_gated_residual"]

_HALF = (torch.bfloat16, torch.float16)


def with_gated_residual(norm: Match) -> Match | None:
    """The norm together with the gated sum that it reads; None when there is no such sum in front of it.

    The smaller match is the norm alone, which reads the sum: the product in a tensor of its own would be one tensor more.
    """
    total = norm.inputs["x"]
    dtype = dtype_of(total)
    cast = total.target in CASTS and dtype in _HALF
    add = total.args[0] if cast else total
    if norm.op.residual or not isinstance(add, Node) or add.target not in ADD or add.kwargs.get("alpha", 1) != 1:
        return None
    if cast and (dtype_of(add) != torch.float32 or only_reader(add) is not total):
        return None
    for product, other in (add.args[:2], add.args[1::-1]):
        found = _times_gate(product, add)
        if found is None or not isinstance(other, Node):
            continue
        x, gate = found
        nodes = dict.fromkeys((total, add, product))
        x, residual = _behind_casts(x, nodes), _behind_casts(other, nodes)
        if dtype_of(x) != dtype or dtype_of(residual) != dtype or not same_shape(shape_of(residual), shape_of(total)):
            continue
        return dataclasses.replace(
            norm,
            op=dataclasses.replace(norm.op, residual=True, gate_dtype=dtype_of(gate)),
            inputs=norm.inputs | {"x": x, "residual": residual, "gate": gate},
            outputs=norm.outputs | {"sum": (total,)},
            nodes=nodes | norm.nodes,
            cheap=norm.cheap | {node for node in nodes if node.target in CASTS and node is not total},
            views={},
            smaller=norm,
        )
    return None


def _times_gate(product: Any, add: Node) -> tuple[Node, Node] | None:
    """What is gated and the gate, of a product in the dtype of ``add``, which alone reads it."""
    if not isinstance(product, Node) or product.target not in MUL or dtype_of(product) != dtype_of(add):
        return None
    if only_reader(product) is not add:
        return None
    for x, gate in (product.args[:2], product.args[1::-1]):
        if isinstance(x, Node) and same_shape(shape_of(x), shape_of(add)) and is_row_of_batch(gate, add):
            return (x, gate) if dtype_of(gate) == dtype_of(product) else None
    return None


def _behind_casts(value: Node, nodes: dict[Node, None]) -> Node:
    """The narrowest node that ``value`` equals; the casts on the way join ``nodes``."""
    source = lossless(value)
    while value is not source:
        nodes[value] = None
        value = value.args[0]
    return source
