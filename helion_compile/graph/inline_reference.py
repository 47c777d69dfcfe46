"""Where a device has no kernel: a ``helion_kernel`` node becomes the operations of its reference.

    %out = helion_kernel(%x, %weight, …, kernel="helion_compile::norm_quant")     on a CPU
    ->
    %float = prims.convert_element_type(%x, fp32), %square = aten.mul(%float, %float), %mean = aten.mean(%square, [-1]), …

Inductor then makes code of them as of a model's own operations, and fuses them with their neighbours.  A call of the reference
would run each of its operations alone, from memory to memory.

A result that several nodes read, as q, k and v read one quantised norm, goes through ``materialize``.  Without it Inductor
computes the result in the buffer of each product that reads it.  Where it fuses all readers it leaves the memory out again.

The reference is traced on the node's fake arguments, without writes: for an argument that it writes to, the node gives the new
value, which the graph copies back.  A node stays a call, and runs the reference, where this would not be the same:

- its kernel has a parameter ``exact`` that is true, which promises eager's bits;
- the reference cannot be traced, draws random numbers, reads values (``.item()``), holds tensors of its own, or calls what
  writes to memory although its schema should not say so;
- the results are not laid out as the node's are.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from helion_compile.compat import CustomGraphPass, OpOverload
from helion_compile.definitions import registry
from helion_compile.graph.hop import helion_kernel
from helion_compile.passes.compat import detect_fake_mode, enable_python_dispatcher
from helion_compile.passes.ir.values import VIEWS
from helion_compile.runtime import reference

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["InlineReferences", "inline_references", "materialize"]

log = logging.getLogger(__name__)

_KEPT_META = ("stack_trace", "nn_module_stack", "custom")  # "custom": the kernel and its place, in printed graphs
_OWN_RESULT = (torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


def materialize(value: Any) -> Any:
    """In Inductor's lowering: ``value`` in memory, once for all that read it; elsewhere ``value``."""
    if not isinstance(value, torch.Tensor):
        value.realize()
    return value


materialize._inductor_lowering_function = True  # type: ignore[attr-defined]  # Inductor calls it with its own values


class InlineReferences(CustomGraphPass):
    """:func:`inline_references` as Inductor takes passes; it stands behind the pass that makes the nodes."""

    def __call__(self, graph: Graph) -> None:
        inline_references(graph)

    def uuid(self) -> str:
        return "inline_references"  # the fusion pass before it names the sources of both packages


def inline_references(graph: Graph) -> int:
    """Inline the reference of each kernel that the device does not have; how many nodes that were."""
    nodes = list(graph.find_nodes(op="call_function", target=helion_kernel))
    count = 0
    while nodes:
        node = nodes.pop()
        try:
            inner = _inline(node)
        except Exception as error:  # a call runs the reference too
            log.debug("%s stays a call of its reference: %s: %s", node.name, type(error).__name__, error)
            continue
        nodes += [each for each in inner if each.target is helion_kernel]  # a reference may call kernels
        count += 1
    return count


class _CannotInline(Exception):
    """The reason is its text."""


def _inline(node: Node) -> list[Node]:
    """Put the operations in the place of ``node``; the new nodes."""
    kernel = registry.find_kernel(node.kwargs["kernel"])
    examples = map_arg(node.args, lambda each: each.meta["val"])
    if not reference.lacks_kernel(examples):
        raise _CannotInline("its device has the kernel")
    if dict(zip(kernel.signature.parameters, node.args, strict=True)).get("exact") is True:
        raise _CannotInline("it keeps eager's bits")
    given = [argument for argument in node.args if isinstance(argument, Node)]
    traced = _trace(kernel, node.args, given)
    _check(traced.graph, node)
    results, nodes = _copy(traced.graph, node, given)
    if isinstance(node.meta["val"], (tuple, list)):
        read = {user: results[user.args[1]] for user in node.users}  # getitem nodes, as _check saw
    else:
        read = {node: results[0]}
    for old, new in read.items():
        if new not in given and _count_readers(old) > 1:
            with node.graph.inserting_before(node):
                meta, new = new.meta, node.graph.call_function(materialize, (new,))
            new.meta = dict(meta)
        old.replace_all_uses_with(new)
        if old is not node:
            node.graph.erase_node(old)
    node.graph.erase_node(node)
    return nodes


def _count_readers(node: Node) -> int:
    """How many nodes read the values of ``node``; views of it only pass them on."""
    return sum(_count_readers(user) if user.target in VIEWS else 1 for user in node.users)


def _trace(kernel: KernelSpec, args: Sequence[Any], given: Sequence[Node]) -> GraphModule:
    """The graph of the reference as a function of ``given``, which are the nodes among ``args``."""
    from helion_compile.compat import select_decompositions  # imports Inductor

    def run(*values: Any) -> tuple[Any, ...]:
        rest = iter(values)
        passed = kernel.copy_mutated(tuple(next(rest) if isinstance(arg, Node) else arg for arg in args))
        results = kernel.flatten_results(kernel.reference(*passed))
        return *results, *kernel.select_mutated(passed)

    values = [argument.meta["val"] for argument in given]
    mode = detect_fake_mode(values)
    if mode is None:
        raise _CannotInline("the graph has no fake values")
    with torch.no_grad(), mode, enable_python_dispatcher():
        functional = torch.func.functionalize(run, remove="mutations")
        traced = make_fx(functional, decomposition_table=select_decompositions(), tracing_mode="real")(*values)
    traced.graph.eliminate_dead_code()
    return traced


def _check(graph: Graph, node: Node) -> None:
    """Whether the traced ``graph`` may stand for ``node``.

    Raises:
        _CannotInline: it may not.
    """
    for each in graph.nodes:
        if each.op in ("placeholder", "output"):
            continue
        target = each.target
        if isinstance(target, OpOverload):
            if target._schema.is_mutable or each.is_impure() or any(tag in target.tags for tag in _OWN_RESULT):
                raise _CannotInline(f"it calls {target}")
        elif each.op != "call_function" or not (
            target is helion_kernel or getattr(target, "__module__", "") in ("_operator", "math", "torch")
        ):
            raise _CannotInline(f"it holds {each.op} {target}")
    value = node.meta["val"]
    several = isinstance(value, (tuple, list))
    if several and any(user.target is not operator.getitem for user in node.users):
        raise _CannotInline("its results are read as a tuple")
    found = [result.meta.get("val") if isinstance(result, Node) else None for result in graph.output_node().args[0]]
    for result, expected in zip(found, value if several else [value], strict=True):
        if not isinstance(result, torch.Tensor) or _layout(result) != _layout(expected):
            raise _CannotInline("its results are laid out otherwise")


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride()


def _copy(graph: Graph, node: Node, given: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Copies of the nodes of ``graph`` before ``node``: those of its results, and all."""
    copies = dict(zip(graph.find_nodes(op="placeholder"), given, strict=True))
    made = []
    with node.graph.inserting_before(node):
        for each in graph.nodes:
            if each.op == "call_function":
                new = node.graph.node_copy(each, copies.__getitem__)
                new.meta = {"val": each.meta["val"], **{key: node.meta[key] for key in _KEPT_META if key in node.meta}}
                copies[each] = new
                made.append(new)
    return [copies[result] for result in graph.output_node().args[0]], made
