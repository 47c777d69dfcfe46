# SPDX-License-Identifier: Apache-2.0
"""Looking at what a compiler made of a function: its graphs, and in them the calls of our kernels."""

from torch.fx import GraphModule, Node

from helion_compile.graph.hop import helion_kernel

__all__ = ["Graphs", "kernel_nodes"]


class Graphs(list):
    """A backend for torch.compile that keeps the graphs it is given, and runs them as they are."""

    def __call__(self, module: GraphModule, inputs):
        self.append(module)
        return module.forward


def kernel_nodes(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if node.target is helion_kernel]
