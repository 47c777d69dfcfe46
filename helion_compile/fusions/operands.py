"""A kernel's arguments, made of nodes to call it or of fake tensors to ask it first, in the shapes that kernels take."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch.fx import Node

from helion_compile.helion_kernel import HelionKernel
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.values import known_equal
from helion_compile.passes.rewrite.fusion import Chain, Emit

__all__ = ["Fakes", "Nodes", "Operands", "Outputs", "check_kernel", "unpack", "value_of"]

aten = torch.ops.aten

Outputs = Mapping[tuple[type, str], Node]  # what a fusion's build returns


class Operands(Protocol):
    """What a fusion makes its kernel's arguments of."""

    def of(self, node: Node) -> Any:
        """What stands for ``node``."""

    def rows(self, node: Node) -> Any:
        """What stands for ``node`` [..., K] as [M, K]."""

    def call(self, target: Any, *args: Any) -> Any:
        """What stands for an operator's result, of arguments that stand for something themselves."""


class Nodes:
    """Nodes of the graph, added to it where one is needed."""

    def __init__(self, emit: Emit) -> None:
        self.call = emit

    def of(self, node: Node) -> Node:
        return node

    def rows(self, node: Node) -> Node:
        value = value_of(node)
        return node if value.dim() == 2 else self.call(aten.reshape.default, node, [-1, value.size(-1)])


class Fakes:
    """Fake tensors; a :class:`Refusal` where a view is asked for that would be a copy."""

    def of(self, node: Node) -> torch.Tensor:
        return value_of(node)

    def rows(self, node: Node) -> torch.Tensor | Refusal:
        value = value_of(node)
        if value.dim() == 2:
            return value
        step = None  # from one row to the next, over the dimensions seen so far
        for size, stride in zip(reversed(value.shape[:-1]), reversed(value.stride()[:-1]), strict=True):
            if known_equal(size, 1):
                continue
            if step is not None and not known_equal(stride, step):
                return Refusal.of(
                    RefusalKind.SHAPE,
                    node,
                    "{x} {shape} with strides {strides} is no view of rows",
                    "contiguous before, it fuses",
                    x=node,
                    shape=tuple(value.shape),
                    strides=value.stride(),
                )
            step = stride * size
        return value.view(-1, value.size(-1))

    def call(self, target: Any, *args: Any) -> Any:
        return _first_refusal(args) or target(*args)


def check_kernel(chain: Chain, kernel: HelionKernel, *arguments: Any) -> Refusal | None:
    """Why ``kernel`` cannot take these fake arguments, one of which may be a refusal itself."""
    if refusal := _first_refusal(arguments):
        return refusal
    sentence = kernel.check_supported(*arguments)
    if sentence is None:
        return None
    found, remedy = "{sentence}", "arguments that {kernel} supports fuse"
    return chain.refuse(RefusalKind.KERNEL, found, remedy, sentence=sentence, kernel=kernel.short_name)


def _first_refusal(arguments: Iterable[Any]) -> Refusal | None:
    return next((argument for argument in arguments if isinstance(argument, Refusal)), None)


def value_of(node: Node) -> torch.Tensor:
    """The fake tensor of a node."""
    return node.meta["val"]


def unpack(emit: Emit, node: Node) -> Iterator[Node]:
    """The results of a kernel, one node each, made as they are asked for."""
    if isinstance(node.meta["val"], torch.Tensor):
        return iter((node,))
    return (emit(operator.getitem, node, index) for index in range(len(node.meta["val"])))
