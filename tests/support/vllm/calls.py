# SPDX-License-Identifier: Apache-2.0
"""Graphs of one or a few calls of vLLM's operators, with fake values."""

from __future__ import annotations

import operator

import torch
from torch._higher_order_ops.auto_functionalize import auto_functionalized
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node

from tests.support.vllm import ops as vllm_ops  # noqa: F401  defines vLLM's operators

__all__ = ["Calls"]

ops = torch.ops


class Calls:
    """Makes a graph call by call; tensors are on a CPU."""

    def __init__(self):
        self.graph = Graph()
        self.mode = FakeTensorMode()

    def input(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Node:
        node = self.graph.placeholder(f"arg{len(self.graph.nodes)}")
        with self.mode:
            node.meta["val"] = torch.empty(shape, dtype=dtype)
        return node

    def call(self, target, *args, **kwargs) -> Node:
        node = self.graph.call_function(target, args, kwargs)
        fake_args, fake_kwargs = torch.fx.map_arg((args, kwargs), lambda argument: argument.meta["val"])
        with self.mode:
            node.meta["val"] = target(*fake_args, **fake_kwargs)
        return node

    def empty(self, *shape: int, dtype: torch.dtype, stride: tuple[int, ...] | None = None) -> Node:
        if stride:
            return self.call(ops.aten.empty_strided.default, list(shape), list(stride), dtype=dtype)
        return self.call(ops.aten.empty.memory_format, list(shape), dtype=dtype)

    def functional(self, op, **kwargs) -> Node:
        """A call of an operator that writes to its arguments, as a functional graph holds it."""
        return self.call(auto_functionalized, op, **kwargs)

    def items(self, node: Node, *indices: int) -> list[Node]:
        return [self.call(operator.getitem, node, index) for index in indices]

    def matmul(self, q: Node, scale: Node, columns: int = 32, b_scale: Node | None = None) -> Node:
        """A product that reads what was quantised."""
        rows, depth = q.meta["val"].shape
        call = self.functional(
            ops._C.cutlass_scaled_mm.default,
            out=self.empty(rows, columns, dtype=torch.bfloat16),
            a=q,
            b=self.input(depth, columns, dtype=torch.float8_e4m3fn),
            a_scales=scale,
            b_scales=b_scale or self.input(columns, 1, dtype=torch.float32),
            bias=None,
        )
        return self.items(call, 1)[0]

    def output(self, *nodes: Node) -> Graph:
        self.graph.output(nodes)
        self.graph.lint()
        return self.graph
