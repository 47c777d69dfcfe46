# SPDX-License-Identifier: Apache-2.0
"""The graph of a kernel's reference, as it may stand for a ``helion_kernel`` node.

The reference is traced on the node's fake arguments, without writes: for an argument that it writes to, the graph gives the
new value.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from helion_compile.compat import OpOverload
from helion_compile.passes.compat import detect_fake_mode, enable_python_dispatcher

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["CannotInline", "check_inlinable", "keeps_bits", "trace_reference"]

_OWN_RESULT = (torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class CannotInline(Exception):
    """The reason is its text."""


def keeps_bits(kernel: KernelSpec, args: Sequence[Any]) -> bool:
    """Whether the kernel has a parameter ``exact`` that is true, which promises eager's bits."""
    return dict(zip(kernel.signature.parameters, args, strict=True)).get("exact") is True


def trace_reference(
    kernel: KernelSpec, args: Sequence[Any], given: Sequence[Node], *, function: Any = None, decompose: bool = True
) -> GraphModule:
    """The graph of the reference as a function of ``given``, which are the nodes among ``args``.

    Args:
        function: traced instead of the reference, with the same parameters.
        decompose: into what Inductor makes code of.

    Raises:
        CannotInline: the nodes have no fake values.
    """
    from helion_compile.compat import select_decompositions  # imports Inductor

    def run(*values: Any) -> tuple[Any, ...]:
        rest = iter(values)
        passed = kernel.copy_mutated(tuple(next(rest) if isinstance(arg, Node) else arg for arg in args))
        results = kernel.flatten_results((function or kernel.reference)(*passed))
        return *results, *kernel.select_mutated(passed)

    values = [argument.meta["val"] for argument in given]
    mode = detect_fake_mode(values)
    if mode is None:
        raise CannotInline("the graph has no fake values")
    with torch.no_grad(), mode, enable_python_dispatcher():
        functional = torch.func.functionalize(run, remove="mutations")
        table = select_decompositions() if decompose else None
        traced = make_fx(functional, decomposition_table=table, tracing_mode="real")(*values)
    traced.graph.eliminate_dead_code()
    return traced


def check_inlinable(graph: Graph, node: Node) -> None:
    """Whether the traced ``graph`` may stand for ``node``.

    Raises:
        CannotInline: it may not.
    """
    for each in graph.nodes:
        if each.op in ("placeholder", "output"):
            continue
        target = each.target
        if isinstance(target, OpOverload):
            if target._schema.is_mutable or each.is_impure() or any(tag in target.tags for tag in _OWN_RESULT):
                raise CannotInline(f"it calls {target}")
        elif each.op != "call_function" or not (
            target is torch.ops.higher_order.helion_kernel
            or getattr(target, "__module__", "") in ("_operator", "math", "torch")
        ):
            raise CannotInline(f"it holds {each.op} {target}")
    value = node.meta["val"]
    several = isinstance(value, (tuple, list))
    if several and any(user.target is not operator.getitem for user in node.users):
        raise CannotInline("its results are read as a tuple")
    found = [result.meta.get("val") if isinstance(result, Node) else None for result in graph.output_node().args[0]]
    for result, expected in zip(found, value if several else [value], strict=True):
        if not isinstance(result, torch.Tensor) or _layout(result) != _layout(expected):
            raise CannotInline("its results are laid out otherwise")


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride()
