# SPDX-License-Identifier: Apache-2.0
"""A kernel's arguments, made of nodes to call it or of fake tensors to ask it first, in the shapes that kernels take."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch.fx import Node

from helion_compile.helion_kernel import HelionKernel
from helion_compile.passes.account.refusal import Refusal, RefusalKind
from helion_compile.passes.ir.fake_results import compute_fake
from helion_compile.passes.match.clones import lies_in_rows
from helion_compile.passes.rewrite.fusion import Chain, Emit

__all__ = ["Fakes", "Nodes", "Operands", "Outputs", "check_kernel", "unpack", "value_of"]

aten = torch.ops.aten

Outputs = Mapping[tuple[type, str], Node]  # what a fusion's build returns


class Operands(Protocol):
    """What a fusion makes its kernel's arguments of."""

    def of(self, node: Node) -> Any:
        """What stands for ``node``."""

    def rows(self, node: Node, widest: int = 1) -> Any:
        """What stands for ``node`` [..., K] as [M, K], its elements at most ``widest`` apart."""

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """What stands for an operator's result, of arguments that stand for something themselves."""


class Nodes:
    """Nodes of the graph, added to it where one is needed.

    Args:
        cloning: copy what is no view of rows.
    """

    def __init__(self, emit: Emit, *, cloning: bool = False) -> None:
        self.call = emit
        self.cloning = cloning

    def of(self, node: Node) -> Node:
        return node

    def rows(self, node: Node, widest: int = 1) -> Node:
        value = value_of(node)
        if self.cloning and not lies_in_rows(value, widest):
            node = self.call(aten.clone.default, node, memory_format=torch.contiguous_format)
        return node if value.dim() == 2 else self.call(aten.reshape.default, node, [-1, value.size(-1)])


class Fakes:
    """Fake tensors; a :class:`Refusal` where a view is asked for that would be a copy, but for ``cloning``."""

    def __init__(self, *, cloning: bool = False) -> None:
        self.cloning = cloning

    def of(self, node: Node) -> torch.Tensor:
        return value_of(node)

    def rows(self, node: Node, widest: int = 1) -> torch.Tensor | Refusal:
        value = value_of(node)
        if not lies_in_rows(value, widest):
            if self.cloning:
                value = torch.empty_like(value, memory_format=torch.contiguous_format)
            elif value.dim() != 2:
                return Refusal.of(
                    RefusalKind.SHAPE,
                    node,
                    "{x} {shape} with strides {strides} is no view of rows",
                    "contiguous before, it fuses",
                    x=node,
                    shape=tuple(value.shape),
                    strides=value.stride(),
                )
        return value if value.dim() == 2 else self.call(aten.view.default, value, [-1, value.size(-1)])

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        return _first_refusal(args) or compute_fake(None, target, args, kwargs)


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
