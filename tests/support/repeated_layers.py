# SPDX-License-Identifier: Apache-2.0
"""Graphs of many layers: one decoder layer is traced, and its nodes are repeated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.fx import Graph, Node

from tests.support import programs
from tests.support.capture import capture
from tests.support.corpus import quantisers

__all__ = ["repeat_layer"]

K, D, WIDE = 64, 16, 128


def repeat_layer(layers: int) -> Graph:
    """A Qwen3-like model with linears in fp8 by row, as Inductor's hook gets it: 168 nodes a layer."""
    traced = list(capture(_layer, *_arguments()).graph.nodes)
    inputs = [node for node in traced if node.op == "placeholder"]
    body = [node for node in traced if node.op not in ("placeholder", "output")]
    (result,) = traced[-1].args[0]
    hidden = next(node for node in inputs if node.meta["val"].dim() == 3)
    graph = Graph(torch.nn.Module())
    copies: dict[Node, Node] = {}
    for node in inputs:
        copies[node] = graph.node_copy(node)
    for index in range(layers):
        for node in body:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].meta["nn_module_stack"] = {"": (f"L['self'].model.layers[{index}]", torch.nn.Module)}
        copies[hidden] = copies[result]
    graph.output((copies[result],))
    return graph


def _layer(x, norm, norm2, wq, wk, wv, wo, gate, up, down, scale, q_norm, k_norm, cos, sin):
    def linear(value, weight):
        q, row = quantisers.torchao_row(value)
        rows, columns = q.reshape(-1, value.shape[-1]), scale[:, : weight.shape[0]].contiguous()
        out = torch._scaled_mm(rows, weight.t(), row.reshape(-1, 1), columns, out_dtype=torch.bfloat16)
        return out.reshape(*value.shape[:-1], weight.shape[0])

    def heads(value, weight):
        value = programs.llama_norm(value.reshape(*value.shape[:-1], K // D, D), weight).transpose(1, 2)
        first, second = value[..., : D // 2], value[..., D // 2 :]
        return value * cos + torch.cat((-second, first), -1) * sin

    normed = programs.llama_norm(x, norm)
    q, k, v = (linear(normed, weight) for weight in (wq, wk, wv))
    v = v.reshape(*v.shape[:-1], K // D, D).transpose(1, 2)
    attended = F.scaled_dot_product_attention(heads(q, q_norm), heads(k, k_norm), v)
    x = x + linear(attended.transpose(1, 2).reshape(x.shape), wo)
    normed = programs.llama_norm(x, norm2)
    return x + linear(F.silu(linear(normed, gate)) * linear(normed, up), down)


def _arguments():
    square = [programs.weights(K, K)[0] for _ in range(4)]
    wide = [programs.weights(WIDE, K)[0] for _ in range(2)]
    tables = [programs.tensor(8, D) for _ in range(2)]
    norms = [programs.tensor(K) for _ in range(2)]
    scale = torch.ones(1, WIDE)
    heads = [programs.tensor(D) for _ in range(2)]
    return programs.tensor(2, 8, K), *norms, *square, *wide, programs.weights(K, WIDE)[0], scale, *heads, *tables
