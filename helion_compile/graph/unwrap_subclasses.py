# SPDX-License-Identifier: Apache-2.0
"""Quantised weights are tensor subclasses; unwrapping them once, when compiling, instead of on every call.

Up to torch 2.12 each call of a compiled model runs Python for every weight that is a subclass: its ``__tensor_flatten__``, a
check of what that returned, and the symbols among its sizes.  For the seven linears of a decoder layer that is 62 µs (H200
machine, torch 2.11, torchao 0.18: 131 µs of host time a layer become 69), more than their matmuls take at batch 1.  From 2.13
on torch writes code for it, and nothing is done here.

    l_weight = placeholder                     ->  l_weight_qdata, l_weight_scale = placeholders
    linear(x, l_weight)                            weight = rebuild("…", l_weight_qdata, l_weight_scale)
                                                   linear(x, weight)

``rebuild`` runs while AOTAutograd traces and leaves nothing behind.  Dynamo's guards still see the whole weights.

Private interfaces (``compat``): what Dynamo keeps on a placeholder (``_dynamo_source``, ``meta["tensor_dict"]``,
``["example_value"]``) and Inductor's ``unsafe_marked_cacheable_functions``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, GraphModule, Node

from helion_compile.compat import AttrSource, is_traceable_wrapper_subclass
from helion_compile.runtime.triton_launch import define_function

__all__ = ["CACHEABLE", "is_needed", "rebuild", "unwrap_weights"]

# Where the class, what it says of itself, and the outer size and strides are found by the name that stands in the graph.
_PLANS: dict[str, tuple[Any, Any, tuple[int, ...], tuple[int, ...]]] = {}


def is_needed() -> bool:
    """Whether this torch unwraps subclasses in Python on every call."""
    return importlib.util.find_spec("torch._functorch._aot_autograd.subclass_codegen") is None


def rebuild(plan: str, names: tuple[str, ...], *inner: torch.Tensor) -> torch.Tensor:
    """The subclass instance that was unwrapped into ``inner``."""
    kind, context, size, stride = _PLANS[plan]
    return kind.__tensor_unflatten__(dict(zip(names, inner, strict=True)), context, size, stride)


# The name of a plan is a hash of all that it decides, so equal graphs mean equal results and may be cached.
CACHEABLE = {f"{rebuild.__module__}.{rebuild.__name__}": "1"}


Parts = Callable[..., tuple[Any, ...]]  # from the arguments of a call to those of the graph that takes parts


def unwrap_weights(module: GraphModule, inputs: Sequence[Any]) -> tuple[GraphModule, list[Any], Parts] | None:
    """``module`` with the parts of each weight that is a subclass as its inputs; None where there is none.

    Args:
        module: the graph as Dynamo gives it, which goes on using it: it is not changed.
        inputs: its example inputs.

    Returns:
        The new graph, its example inputs, and a function from a call's arguments to its arguments.
    """
    placeholders = list(module.graph.find_nodes(op="placeholder"))
    chosen = {node: parts for node, value in zip(placeholders, inputs, strict=True) if (parts := _parts(node, value))}
    if not chosen:
        return None
    graph = Graph()
    copies: dict[Node, Node] = {}
    inner: dict[Node, list[Node]] = {}
    new_inputs: list[Any] = []
    arguments: list[str] = []
    for index, (node, value) in enumerate(zip(placeholders, inputs, strict=True)):
        if node in chosen:
            inner[node] = [_part(graph, node, name) for name in chosen[node].names]
            new_inputs += [part.meta["example_value"] for part in inner[node]]
            arguments += [f"a{index}.{name}" for name in chosen[node].names]
        else:
            copies[node] = graph.node_copy(node)
            copies[node]._dynamo_source = getattr(node, "_dynamo_source", None)
            copies[node].meta.pop("grapharg", None)  # a weak reference to a weight, which keeps it from being moved
            new_inputs.append(value)
            arguments.append(f"a{index}")
    for node, (plan, names) in chosen.items():
        copies[node] = graph.call_function(rebuild, (plan, names, *inner[node]))
        copies[node].meta["example_value"] = node.meta["example_value"]
    for node in module.graph.nodes:
        if node.op != "placeholder":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    result = GraphModule(module, graph)
    result.meta = dict(module.meta)
    result._param_name_to_source = module._param_name_to_source
    parameters = [f"a{index}" for index in range(len(placeholders))]
    return result, new_inputs, define_function("parts_of", parameters, [f"return ({', '.join(arguments)},)"], {})


def _part(graph: Graph, weight: Node, name: str) -> Node:
    """The placeholder of one part of ``weight``."""
    part = graph.placeholder(f"{weight.name}_{name}")
    part.meta = {"tensor_dict": weight.meta["tensor_dict"], "example_value": getattr(weight.meta["example_value"], name)}
    part._dynamo_source = AttrSource(weight._dynamo_source, name)
    return part


class _Unwrapped(NamedTuple):
    plan: str
    names: tuple[str, ...]


def _parts(node: Node, value: Any) -> _Unwrapped | None:
    """The plan and the names of the tensors that ``value`` consists of; None for what has to stay whole."""
    if not is_traceable_wrapper_subclass(value) or value.requires_grad:
        return None
    # Weights alone: an activation may be another subclass, of other sizes, on the next call.
    if not node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type"):
        return None
    if getattr(node, "_dynamo_source", None) is None or any(user.op == "output" for user in node.users):
        return None
    fake = node.meta.get("example_value")
    names, context = value.__tensor_flatten__()
    for name in names:
        inner, fake_inner = getattr(value, name, None), getattr(fake, name, None)
        if not name.isidentifier() or not isinstance(inner, torch.Tensor) or not isinstance(fake_inner, torch.Tensor):
            return None
        if is_traceable_wrapper_subclass(inner) or any(isinstance(size, torch.SymInt) for size in fake_inner.shape):
            return None
    plan = (type(value), context, tuple(value.size()), tuple(value.stride()))
    try:
        key = hashlib.sha256(pickle.dumps(plan)).hexdigest()[:16]
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    _PLANS[key] = plan
    return _Unwrapped(key, tuple(names))
