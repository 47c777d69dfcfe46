# SPDX-License-Identifier: Apache-2.0
"""Inductor: a ``helion_kernel`` node lowered to the operations of its reference, or of another function in torch.

This is for generated code without Python on a device that has no kernel.  ``inline_reference.py`` does the same to a graph,
where our pass stands in Inductor's hook; here it happens to any node, and no node is left a call.

A kernel with ``exact`` promises eager's bits.  Each of its operations is then a call of torch's operator, which Inductor fuses
with nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from helion_compile.compat import OpOverload, V, fallback_handler, ir, lower_empty_strided, process_subgraph_nodes
from helion_compile.errors import PackageError
from helion_compile.graph.reference_graph import CannotInline, check_inlinable, keeps_bits, trace_reference

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["lower_function", "trace_function"]


def lower_function(
    node: Node, kernel: KernelSpec, args: Sequence[Any], function: Callable[..., Any] | None = None
) -> tuple[Any, ...]:
    """Inductor's values for what ``node`` gives, by its reference; a written argument's new value is one of them.

    Args:
        args: Inductor's values for the node's arguments.
        function: instead of the reference, with the kernel's parameters.

    Raises:
        PackageError: the function cannot be traced.
    """
    traced = trace_function(node, kernel, function)
    boxes = [box for box, argument in zip(args, node.args, strict=True) if isinstance(argument, Node)]
    return tuple(_call_operators(traced, boxes) if keeps_bits(kernel, node.args) else process_subgraph_nodes(traced, boxes))


def trace_function(node: Node, kernel: KernelSpec, function: Callable[..., Any] | None = None) -> GraphModule:
    """The graph of the node's reference, or of ``function``, as a function of those of its arguments that are nodes.

    Raises:
        PackageError: it cannot be traced.
    """
    given = [argument for argument in node.args if isinstance(argument, Node)]
    decompose = not keeps_bits(kernel, node.args)
    try:
        traced = trace_reference(kernel, node.args, given, function=function, decompose=decompose)
        check_inlinable(traced.graph, node)
    except CannotInline as reason:
        raise PackageError(
            f"{kernel.short_name} cannot be called without Python: its reference, which runs here, cannot be taken apart into "
            f"torch's operators ({reason})."
        ) from None
    return traced


def _call_operators(traced: GraphModule, boxes: Sequence[Any]) -> Sequence[Any]:
    """Inductor's values for what the graph gives, each operation of which is a call of its operator."""
    values = dict(zip(traced.graph.find_nodes(op="placeholder"), boxes, strict=True))
    around = V.graph.current_node
    try:
        for each in (node for node in traced.graph.nodes if node.op == "call_function"):
            V.graph.current_node = each
            V.graph.env |= values  # where Inductor looks for arguments
            if isinstance(each.target, OpOverload) and not each.target.is_view:
                args, kwargs = map_arg((each.args, each.kwargs), values.__getitem__)
                values[each] = _call_operator(each, args, kwargs)
            else:
                values[each] = V.graph.run_node(each)
    finally:
        V.graph.current_node = around
    return map_arg(traced.graph.output_node().args[0], values.__getitem__)


def _call_operator(node: Node, args: Any, kwargs: Any) -> Any:
    operator = node.target
    if operator is torch.ops.aten._to_copy.default:
        # Inductor writes no valid C++ for its argument `device`, which is optional (torch 2.13).
        fake = node.meta["val"]
        sizes = (ir.convert_shape_to_inductor(each) for each in (fake.size(), fake.stride()))
        operator, args, kwargs = (
            torch.ops.aten.copy.default,
            (lower_empty_strided(*sizes, dtype=fake.dtype, device=fake.device), args[0]),
            {},
        )
    elif len(args) > 1 and isinstance(args[1], (int, float)) and str(operator._schema.arguments[1].type) == "Tensor":
        operator = getattr(operator._overloadpacket, "Scalar", operator)  # C++ makes no tensor of a number
    node.target = operator  # Inductor asks the node what is called
    return fallback_handler(operator, add_to_fallback_set=False)(*args, **kwargs)
