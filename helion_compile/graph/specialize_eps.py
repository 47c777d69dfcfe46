# SPDX-License-Identifier: Apache-2.0
"""Making constants of a model's ``eps`` again.

With ``dynamic=True`` Dynamo makes graph inputs of all Python floats, so that a changed one needs no new graph.  An eps does
not change, and a kernel wants to know it.

    l_self_norm_eps = placeholder                 fp64 []
    eps = l_self_norm_eps.item()                  ->  1e-06, guarded
    variance + eps

Private interfaces: what Dynamo keeps in ``meta`` of a placeholder; the same in ``compat.TORCH``.
"""

from __future__ import annotations

import re

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

__all__ = ["specialize_eps"]

# "….variance_epsilon", "G['EPS']" but not "….steps"; "G['rms_norm'].__defaults__[0]"
_CONSTANT = re.compile(r"(?<![A-Za-z])eps\w*\W*$|\.__(kw)?defaults__\W+\w+\W*$", re.IGNORECASE)


def specialize_eps(module: GraphModule) -> None:
    """Replace every float input that is called eps, or is a default of a parameter; a call with another value recompiles."""
    for node in module.graph.find_nodes(op="call_method", target="item"):
        value = node.meta.get("example_value")
        # Only numbers that Dynamo wrapped in a tensor: an item() of the model's own has no value yet.
        wrapped = getattr(node.args[0].meta.get("grapharg"), "pass_arg_as_tensor", False)
        if wrapped and isinstance(value, torch.SymFloat) and _CONSTANT.search(_source(node.args[0])):
            constant = float(value)  # which guards on it
            for user in list(node.users):
                user.args = map_arg(user.args, lambda used: constant if used is node else used)  # noqa: B023
                user.kwargs = map_arg(user.kwargs, lambda used: constant if used is node else used)  # noqa: B023
            module.graph.erase_node(node)
    module.recompile()


def _source(placeholder: Node) -> str:
    """How the model's code reaches an input: "L['self'].norm.eps"; empty for what is no input."""
    argument = placeholder.meta.get("grapharg")
    name = getattr(getattr(argument, "source", None), "name", "")
    return name() if callable(name) else name  # a method up to torch 2.11
