"""Nodes and fake tensors in the shapes that kernels take."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.fx import Node

from helion_compile.kernel import HelionKernel
from passes.fusion import Emit
from passes.values import known_equal

__all__ = ["Outputs", "Reason", "refused_by", "rows_of", "rows_value", "unpack", "value_of"]

aten = torch.ops.aten

Outputs = Mapping[tuple[type, str], Node]  # what a fusion's build returns


class Reason(str):
    """A sentence that stands where a fake tensor was expected: why there can be none."""


def rows_of(emit: Emit, node: Node) -> Node:
    """``node`` [..., K] as [M, K]."""
    value = value_of(node)
    return node if value.dim() == 2 else emit(aten.reshape.default, node, [-1, value.size(-1)])


def rows_value(node: Node) -> torch.Tensor | Reason:
    """The fake tensor that :func:`rows_of` will give, or a sentence when that would be a copy."""
    value = value_of(node)
    if value.dim() == 2:
        return value
    step = None  # from one row to the next, over the dimensions seen so far
    for size, stride in zip(reversed(value.shape[:-1]), reversed(value.stride()[:-1]), strict=True):
        if known_equal(size, 1):
            continue
        if step is not None and not known_equal(stride, step):
            shape = f"{node.name} {tuple(value.shape)} with strides {value.stride()}"
            return Reason(f"{shape} is no view of rows; make it contiguous before")
        step = stride * size
    return value.view(-1, value.size(-1))


def refused_by(kernel: HelionKernel, *arguments: Any) -> str | None:
    """Why ``kernel`` cannot take these fake arguments, one of which may be a reason itself."""
    return next((argument for argument in arguments if isinstance(argument, Reason)), None) or kernel.refuse(*arguments)


def value_of(node: Node) -> torch.Tensor:
    """The fake tensor of a node."""
    return node.meta["val"]


def unpack(emit: Emit, node: Node) -> Iterator[Node]:
    """The results of a kernel, one node each, made as they are asked for."""
    if isinstance(node.meta["val"], torch.Tensor):
        return iter((node,))
    return (emit(operator.getitem, node, index) for index in range(len(node.meta["val"])))
