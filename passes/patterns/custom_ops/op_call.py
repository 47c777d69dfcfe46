# SPDX-License-Identifier: Apache-2.0
"""Calls of operators that a compiler cannot look into, known by name: the library that defines them need not be there.

One that writes to its arguments stands in a functional graph as a call of ``auto_functionalized``::

    both = auto_functionalized(torch.ops._C.cutlass_scaled_mm.default, out=empty, a=a, b=b, …)
    out = both[1]                    behind the operator's own results (None if it has none) the new value of each
                                     argument that it writes to, in the order of its schema
"""

from __future__ import annotations

import enum
import operator
from typing import Any, NoReturn

import torch
from torch.fx import Node

from helion_compile.passes.account.refusal import RefusalKind
from helion_compile.passes.compat import OpOverload, auto_functionalized
from helion_compile.passes.ir.values import shape_of
from helion_compile.passes.patterns.matcher import Matcher

__all__ = ["INSIDE", "OpMatcher", "Value", "format_argument", "get_op_name"]

aten = torch.ops.aten

_EMPTY = frozenset({aten.empty.memory_format, aten.empty_strided.default, aten.new_empty.default, aten.full.default})


class _Inside(enum.Enum):
    INSIDE = enum.auto()


# A value between two semantic ops of one operator: it is in no node, and the operator's own stands for it.
INSIDE = _Inside.INSIDE
# Where an operator leaves a result: which of those that it returns, the argument that it writes to, or INSIDE.
Value = int | str | _Inside


def get_op_name(node: Node) -> str | None:
    """The operator that a node calls, itself or through ``auto_functionalized``: "vllm_ir.rms_norm.default"."""
    if node.op != "call_function":
        return None
    target = node.args[0] if node.target is auto_functionalized else node.target
    return str(target) if isinstance(target, OpOverload) else None


def format_argument(argument: Any) -> str:
    """An argument of a schema as a table of operators writes it: "input", or "result!" if it is written to."""
    return f"{argument.name}!" if argument.alias_info is not None and argument.alias_info.is_write else argument.name


class OpMatcher(Matcher):
    """A call of such an operator: its arguments by name, and the nodes that hold its results.

    Raises (any method): MatchFailed, where the operator lacks an argument that it was known to have.
    """

    def __init__(self, anchor: Node):
        super().__init__(anchor)
        self.functionalized = anchor.target is auto_functionalized
        self.op = anchor.args[0] if self.functionalized else anchor.target
        self.schema = self.op._schema
        names = [argument.name for argument in self.schema.arguments]
        self.arguments = {argument.name: argument.default_value for argument in self.schema.arguments}
        self.arguments |= dict(zip(names, () if self.functionalized else anchor.args, strict=False)) | anchor.kwargs
        self.written = [a.name for a in self.schema.arguments if format_argument(a).endswith("!")]
        self.returned = len(self.schema.returns)
        # Neither a tuple nor a list.
        self.returns_one_tensor = self.returned == 1 and isinstance(self.schema.returns[0].type, torch.TensorType)

    @property
    def name(self) -> str:
        """ "vllm_ir.rms_norm": as sentences name the operator."""
        return str(self.op).removesuffix(".default")

    def fail_unknown(self, found: str) -> NoReturn:
        """The operator is not the one that a table knows under its name."""
        self.fail(
            self.anchor,
            RefusalKind.UNKNOWN_OPERATOR,
            "{name} {difference}",
            "one with the arguments that passes/patterns/custom_ops lists can be read",
            name=self.name,
            difference=found,
        )

    def get_arguments(self, *names: str) -> tuple[Any, ...]:
        """Arguments by name: nodes, numbers or None."""
        for name in names:
            if name not in self.arguments:
                self.fail_unknown(f"has no argument {name!r}, it takes {', '.join(self.arguments)}")
        return tuple(self.arguments[name] for name in names)

    def get_tensors(self, *names: str) -> tuple[Node, ...]:
        """Arguments that must be tensors whose shape is known."""
        found = self.get_arguments(*names)
        for name, value in zip(names, found, strict=True):
            if shape_of(value) is None:
                self.fail(
                    self.anchor,
                    RefusalKind.SHAPE,
                    "{argument} of {name} is {value}",
                    "a tensor of known shape can be read",
                    argument=name,
                    name=self.name,
                    value=value,
                )
        return found

    def find_nodes(self, value: Value) -> tuple[Node, ...]:
        """The nodes that hold a result of the operator; none if nobody reads it."""
        if value is INSIDE:
            return (self.anchor,)
        if isinstance(value, int):
            return (self.anchor,) if self.returns_one_tensor and not self.functionalized else self._find_items(value)
        self.get_arguments(value)
        if value not in self.written or not self.functionalized:
            self.fail_unknown(f"was known to write to {value!r}, and does not")
        return self._find_items(max(1, self.returned) + self.written.index(value))

    def take_memory(self, *names: str) -> None:
        """Step over what made the memory that these arguments are, which the operator only writes to."""
        for value in self.get_arguments(*names):
            while isinstance(value, Node) and value.target is aten.permute.default:
                value = self.take(value, cheap=True).args[0]
            if isinstance(value, Node) and value.target in _EMPTY:
                self.take(value, cheap=True)

    def _find_items(self, index: int) -> tuple[Node, ...]:
        return tuple(user for user in self.anchor.users if user.target is operator.getitem and user.args[1] == index)
