# SPDX-License-Identifier: Apache-2.0
"""Looking at what a compiler made of a function: its graphs, and in them the calls of our kernels."""

import torch
from torch.fx import GraphModule, Node

from helion_compile.graph.hop import helion_kernel

__all__ = ["Graphs", "calls", "compiled", "kernel_nodes"]


class Graphs(list):
    """A backend for torch.compile that keeps the graphs it is given, and runs them as they are."""

    def __call__(self, module: GraphModule, inputs):
        self.append(module)
        return module.forward


def kernel_nodes(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if node.target is helion_kernel]


def compiled(function, *args, dynamic=False, **kwargs):
    """Graphs of ``function``, compiled whole, after one call whose result is as in eager mode."""
    graphs = Graphs()
    expected_args = torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, args)
    expected = function(*expected_args, **kwargs)
    result = torch.compile(function, backend=graphs, fullgraph=True, dynamic=dynamic)(*args, **kwargs)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    torch.testing.assert_close(args, expected_args, rtol=0, atol=0)
    return graphs


def calls(function, *args, **kwargs):
    """Nodes of the one graph that ``function`` becomes."""
    (graph,) = compiled(function, *args, **kwargs)
    return kernel_nodes(graph)
