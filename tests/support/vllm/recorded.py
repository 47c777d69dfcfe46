# SPDX-License-Identifier: Apache-2.0
"""Graphs that vLLM gave to Inductor, rebuilt from their printed form.

``graphs/*.txt`` were printed by vLLM 0.26.0 on an H200 at ``post_grad_custom_post_pass`` while it compiled a two-layer Qwen3
of hidden size 4096 with fp8 linears: a scale per token, static scales per tensor, scales per block of 128.  In each file the
graph in front of the first attention, one between two, and the one behind the last.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from tests.support.vllm import ops as vllm_ops  # noqa: F401  defines vLLM's operators

__all__ = ["SITES", "graph", "graphs"]

_DTYPES = {
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f8e4m3fn": torch.float8_e4m3fn,
    "i32": torch.int32,
    "i64": torch.int64,
}
_OPERATORS = {ast.FloorDiv: operator.floordiv, ast.Mult: operator.mul, ast.Add: operator.add, ast.Sub: operator.sub}
_TYPED = re.compile(r'^(\s*\w+): "[^"]*" = ', re.MULTILINE)


_QUERIES_AND_KEYS = {"norm_rope": 2}
_NORM = {"norm_quant": 1}
_BEHIND_ATTENTION = {"quant": 1, "norm_quant": 1, "activation_quant": 1}
# In the recording vLLM had fused the block scheme's activation with its quantiser, in an operator that is left alone.
_OF_BLOCKS = {"quant": 1, "norm_quant": 1}


def _sites(behind_attention: dict[str, int]) -> list[dict[str, int]]:
    return [_NORM | _QUERIES_AND_KEYS, behind_attention | {"norm_quant": 2} | _QUERIES_AND_KEYS, behind_attention]


# How often each fusion is made in the three graphs of a scheme.
SITES = {"token": _sites(_BEHIND_ATTENTION), "tensor": _sites(_BEHIND_ATTENTION), "block": _sites(_OF_BLOCKS)}

# Sizes for a CPU, of the same proportions where the graph asks for it: heads of 2, 32 for queries and 8 for keys.
_SMALL = {151936: 256, 40960: 64, 24576: 192, 12288: 96, 6144: 96, 4096: 64, 1024: 16, 128: 2, 64: 1}


def graphs(scheme: str, device: str = "cpu", *, small: bool = False) -> list[Graph]:
    """The recorded graphs of "token", "tensor" or "block", with fake values; nodes stand in the order of the recording."""
    return [graph(scheme, index, device, small=small) for index in range(3)]


def graph(scheme: str, index: int, device: str = "cpu", *, small: bool = False) -> Graph:
    """One of them: that in front of attention, between two, or behind it."""
    text = (Path(__file__).parent / "graphs" / f"vllm-0.26_qwen3_fp8-{scheme}.txt").read_text()
    text = text.replace("<lambda>", "_").replace("type='cuda', index=0", f"type='{device}'")
    if small:
        text = re.sub(r"\b\d+\b", lambda found: str(_SMALL.get(int(found[0]), found[0])), text)
    return _Rebuilt(ast.parse(_TYPED.sub(r"\1 = ", text)).body[index], device).graph


class _Rebuilt:
    def __init__(self, definition: ast.ClassDef, device: str):
        self.device = device
        (forward,) = definition.body
        self.mode = FakeTensorMode(shape_env=ShapeEnv())
        self.graph = Graph()
        self.nodes: dict[str, Node] = {}
        self.symbols: dict[str, Any] = {}
        for argument in forward.args.args[1:]:
            self._placeholder(argument.arg, argument.annotation.value)
        recorded: list[Node] = []
        waiting = list(_statements(forward))
        while waiting:  # vLLM's pattern matcher leaves some nodes in front of what they read
            ready = [s for s in waiting if all(n.id in self.nodes for n in ast.walk(s[1]) if _is_value(n))]
            assert ready, f"nodes that read each other: {[name for name, _ in waiting]}"
            for name, value in ready:
                self._make(name, value)
            waiting = [s for s in waiting if s not in ready]
        for name, _ in _statements(forward):
            recorded.append(self.nodes[name])
        for before, node in zip(recorded, recorded[1:], strict=False):
            before.append(node)
        self.graph.output(self._value(forward.body[-1].value))
        # Passes of vLLM reach the module through the graph.
        self.module = GraphModule(torch.nn.Module(), self.graph)
        self.graph = self.module.graph
        self.graph.module = self.module

    def _placeholder(self, name: str, kind: str) -> None:
        node = self.nodes[name] = self.graph.placeholder(name)
        if kind.startswith("Sym("):
            node.meta["val"] = self._size(kind[4:-1])
            return
        dtype, sizes = kind.rstrip("]").split("[")
        shape = [self._size(size) for size in sizes.split(", ") if size]
        with self.mode:
            node.meta["val"] = torch.empty(shape, dtype=_DTYPES[dtype], device=self.device)

    def _size(self, text: str) -> Any:
        if text.isdigit():
            return int(text)
        if re.fullmatch(r"s\d+", text):
            if text not in self.symbols:
                # The number of tokens, seen as 8192 while compiling.
                context = StatelessSymbolicContext([DimDynamic.DYNAMIC])
                self.symbols[text] = self.mode.from_tensor(torch.empty(8192), symbolic_context=context).size(0)
            return self.symbols[text]
        return eval(text, {}, {name: self._size(name) for name in re.findall(r"s\d+", text)})

    def _make(self, name: str, value: ast.expr) -> None:
        if isinstance(value, ast.Subscript):
            target, args, kwargs = operator.getitem, (self._value(value.value), self._value(value.slice)), {}
        elif isinstance(value, ast.UnaryOp):
            target, args, kwargs = operator.neg, (self._value(value.operand),), {}
        elif isinstance(value, ast.BinOp):
            target, args, kwargs = _OPERATORS[type(value.op)], (self._value(value.left), self._value(value.right)), {}
        else:
            target = self._value(value.func)
            args = tuple(map(self._value, value.args))
            kwargs = {keyword.arg: self._value(keyword.value) for keyword in value.keywords}
        node = self.nodes[name] = self.graph.create_node("call_function", target, args, kwargs, name)
        fake_args, fake_kwargs = torch.fx.map_arg((args, kwargs), lambda argument: argument.meta["val"])
        with self.mode:
            node.meta["val"] = target(*fake_args, **fake_kwargs)

    def _value(self, expression: ast.expr) -> Any:
        if isinstance(expression, ast.Name) and expression.id in self.nodes:
            return self.nodes[expression.id]
        if isinstance(expression, (ast.List, ast.Tuple)):
            return type(expression.elts)(map(self._value, expression.elts))
        return eval(compile(ast.Expression(expression), "graph", "eval"), {"torch": torch, "device": torch.device})


def _statements(forward: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """Names and values, without the statements that drop values."""
    for statement in forward.body:
        if isinstance(statement, ast.Assign) and not isinstance(statement.value, ast.Constant):
            yield statement.targets[0].id, statement.value


def _is_value(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id not in ("torch", "device")
