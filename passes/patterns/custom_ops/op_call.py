"""Operators that a compiler cannot look into, known by name: the library that defines them need not be there.

One that writes to its arguments stands in a functional graph as a call of ``auto_functionalized``::

    both = auto_functionalized(torch.ops._C.cutlass_scaled_mm.default, out=empty, a=a, b=b, …)
    out = both[1]                    behind the operator's own results (None if it has none) the new value of each
                                     argument that it writes to, in the order of its schema
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch._higher_order_ops.auto_functionalize import auto_functionalized
from torch.fx import Node

from helion_compile.passes.ir.values import shape_of
from helion_compile.passes.patterns.matcher import Matcher

__all__ = ["UNKNOWN", "OpaqueWalk", "name_of"]

aten = torch.ops.aten

# In every refusal of an operator that is not what it was known to be.
UNKNOWN = "this version of it is not known; one that docs/patterns.md names can be read"
_EMPTY = frozenset({aten.empty.memory_format, aten.empty_strided.default, aten.new_empty.default, aten.full.default})


def name_of(node: Node) -> str | None:
    """The operator that a node calls, itself or through ``auto_functionalized``: "vllm_ir.rms_norm.default"."""
    if node.op != "call_function":
        return None
    target = node.args[0] if node.target is auto_functionalized else node.target
    return str(target) if isinstance(target, torch._ops.OpOverload) else None


class OpaqueWalk(Matcher):
    """A call of such an operator: its arguments by name, and the nodes that hold its results.

    Raises (any method): Unread, where the operator lacks an argument that it was known to have.
    """

    def __init__(self, anchor: Node):
        super().__init__(anchor)
        self.functionalized = anchor.target is auto_functionalized
        self.op = anchor.args[0] if self.functionalized else anchor.target
        schema = self.op._schema
        names = [argument.name for argument in schema.arguments]
        self.arguments = {argument.name: argument.default_value for argument in schema.arguments}
        self.arguments |= dict(zip(names, () if self.functionalized else anchor.args, strict=False)) | anchor.kwargs
        self.written = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        self.returned = len(schema.returns)
        self.alone = self.returned == 1 and isinstance(schema.returns[0].type, torch.TensorType)  # no tuple, no list

    @property
    def name(self) -> str:
        """ "vllm_ir.rms_norm": as sentences name the operator."""
        return str(self.op).removesuffix(".default")

    def get(self, *names: str) -> tuple[Any, ...]:
        """Arguments by name: nodes, numbers or None."""
        for name in names:
            if name not in self.arguments:
                self.fail(
                    self.anchor,
                    f"{self.name} has no argument {name!r}, it takes {', '.join(self.arguments)}: {UNKNOWN}",
                )
        return tuple(self.arguments[name] for name in names)

    def tensors(self, *names: str) -> tuple[Node, ...]:
        """Arguments that must be tensors whose shape is known."""
        found = self.get(*names)
        for name, value in zip(names, found, strict=True):
            if shape_of(value) is None:
                self.fail(self.anchor, f"{name} of {self.name} is {value!r}; a tensor of known shape can be read")
        return found

    def result(self, index: int) -> tuple[Node, ...]:
        """The nodes that hold a result of the operator; none if nobody reads it."""
        return (self.anchor,) if self.alone and not self.functionalized else self._items(index)

    def new(self, name: str) -> tuple[Node, ...]:
        """The nodes that hold the new value of an argument that the operator writes to."""
        self.get(name)
        if name not in self.written or not self.functionalized:
            self.fail(self.anchor, f"{self.name} was known to write to {name!r}, and does not: {UNKNOWN}")
        return self._items(max(1, self.returned) + self.written.index(name))

    def forget(self, *names: str) -> None:
        """Step over the memory that was made to be written to."""
        for value in self.get(*names):
            while isinstance(value, Node) and value.target is aten.permute.default:
                value = self.take(value, cheap=True).args[0]
            if isinstance(value, Node) and value.target in _EMPTY:
                self.take(value, cheap=True)

    def _items(self, index: int) -> tuple[Node, ...]:
        return tuple(user for user in self.anchor.users if user.target is operator.getitem and user.args[1] == index)
