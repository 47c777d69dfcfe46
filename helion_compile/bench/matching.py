# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile bench matching``: what the pass takes for graphs of up to 100 000 nodes, and of a compilation.

Needs no GPU; for the model transformers and torchao.

The graph is that of decoder layers after tracing: residual additions, RMSNorms, torchao's quantiser for each of the
GEMMs that read a norm, row-wise fp8 GEMMs, and as many element-wise operations as make a quarter of the nodes.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import click
import torch
from torch.fx import Graph, Node

from helion_compile.bench.timing import require_packages
from helion_compile.cli.options import command, count, output_file, several
from helion_compile.compat import FakeTensorMode, fresh_cache
from helion_compile.frontend.backend import helion
from helion_compile.fusions import fusions
from helion_compile.passes import FusionPass
from helion_compile.passes.match.matched_graph import match_graph

__all__ = ["Figure", "Share", "layers", "main", "measure", "share_of_compiling"]

aten, prims = torch.ops.aten, torch.ops.prims

_NODES = (1_000, 10_000, 100_000)
_ROWS, _HIDDEN = 64, 1024
_PRODUCTS = 3  # that quantise one norm each for itself: q, k and v
_NARROW = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 512,
}
_BF16, _FP32, _FP8 = torch.bfloat16, torch.float32, torch.float8_e4m3fn


@dataclass(frozen=True)
class Figure:
    """Times of one graph, in seconds, and what the pass found in it."""

    nodes: int
    match_s: float
    pass_s: float
    matches: int
    sites: int


@dataclass(frozen=True)
class Share:
    """Times of compiling a model, in seconds of this process's CPU; matching is part of the pass, and was done once more."""

    layers: int
    nodes: int
    compile_s: float
    match_s: float
    pass_s: float


@command("bench matching", __doc__)
@several("--nodes", type=count, default=_NODES, metavar="N", help="sizes of graphs")
@click.option("--json", type=output_file, metavar="FILE", help="write the figures there too")
@click.option("--layers", type=int, default=32, metavar="N", help="of a model that is compiled; 0 for none")
def main(options: SimpleNamespace) -> int:
    """Run the benchmark and print its figures."""
    if options.layers:
        require_packages("matching", "transformers", "torchao")
    figures = [measure(nodes) for nodes in options.nodes]
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}\n")
    print(f"{'nodes':>8} {'matching':>10} {'a node':>9} {'whole pass':>11} {'a node':>9} {'matches':>8} {'sites':>6}")
    for figure in figures:
        each = [1e6 * seconds / figure.nodes for seconds in (figure.match_s, figure.pass_s)]
        print(
            f"{figure.nodes:8} {1e3 * figure.match_s:7.1f} ms {each[0]:6.2f} µs {1e3 * figure.pass_s:8.1f} ms "
            f"{each[1]:6.2f} µs {figure.matches:8} {figure.sites:6}"
        )
    share = share_of_compiling(options.layers) if options.layers else None
    if share:
        print(
            f"\nQwen3 of {share.layers} layers, {share.nodes} nodes: compiled in {share.compile_s:.1f} s, of which matching "
            f"{share.match_s:.3f} s ({share.match_s / share.compile_s:.2%}), the whole pass {share.pass_s:.3f} s "
            f"({share.pass_s / share.compile_s:.2%})"
        )
    if options.json:
        found = {"graphs": [asdict(figure) for figure in figures], "model": share and asdict(share)}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def share_of_compiling(layers: int) -> Share:
    """The times of one compilation with empty caches of a Qwen3 with ``layers`` narrow layers, fp8 per row by torchao."""
    import transformers
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    config = transformers.Qwen3Config(**_NARROW, num_hidden_layers=layers)
    model = transformers.Qwen3Model(config).to(torch.bfloat16).eval().requires_grad_(False)
    # torchao refuses a CPU, although its arithmetic runs there: the check is about speed.
    with mock.patch("torchao.quantization.quant_api._check_hardware_support"):
        quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))
    passes: list[tuple[int, float, float]] = []
    run = FusionPass.__call__

    def timed(fusion_pass: FusionPass, graph: Graph) -> None:
        nodes, (match_s, _) = len(graph.nodes), _seconds(lambda: match_graph(graph))
        passes.append((nodes, match_s, _seconds(lambda: run(fusion_pass, graph))[0]))

    torch.compiler.reset()
    with torch.no_grad(), fresh_cache(), mock.patch.object(FusionPass, "__call__", timed):
        compile_s, _ = _seconds(lambda: torch.compile(model, backend=helion)(torch.arange(64)[None], use_cache=False))
    nodes, match_s, pass_s = map(sum, zip(*passes, strict=True))
    return Share(layers, nodes, compile_s, match_s, pass_s)


def measure(nodes: int) -> Figure:
    """The figures of a graph of at least ``nodes`` nodes; matching is the best of three, as other work only adds to it."""
    graph = layers(nodes)
    size = len(graph.nodes)
    match_s = min(_seconds(lambda: match_graph(graph))[0] for _ in range(3))
    matches = len(match_graph(graph).matches)
    fusion_pass = FusionPass(fusions(), strict=True)
    pass_s, _ = _seconds(lambda: fusion_pass(graph))
    return Figure(size, match_s, pass_s, matches, len(fusion_pass.records[0].sites))


def layers(nodes: int) -> Graph:
    """A graph of decoder layers with at least ``nodes`` nodes."""
    graph = Graph()
    build = _Builder(graph)
    x = build.input("x", _ROWS, _HIDDEN, dtype=_BF16)
    weight = build.input("weight", _HIDDEN, dtype=_BF16)
    b = build.input("b", _HIDDEN, _HIDDEN, dtype=_FP8)
    b_scale = build.input("b_scale", 1, _HIDDEN, dtype=_FP32)
    while len(graph.nodes) < nodes:
        normed = build.norm(x, weight)
        products = [build.product(*build.quantize(normed), b, b_scale) for _ in range(_PRODUCTS)]
        value = products[0]
        for other in products[1:]:
            value = build.call(aten.mul.Tensor, value, other)
        for _ in range(16):
            value = build.call(aten.sin.default, value)
        x = build.call(aten.add.Tensor, x, value)
    graph.output((x,))
    return graph


class _Builder:
    """Nodes with fake values.  A value is computed once for each operation and shapes, as tracing is not what is timed."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.mode = FakeTensorMode()
        self.values: dict[Any, torch.Tensor] = {}

    def input(self, name: str, *shape: int, dtype: torch.dtype) -> Node:
        node = self.graph.placeholder(name)
        with self.mode:
            node.meta["val"] = torch.empty(shape, dtype=dtype)
        return node

    def call(self, target: Callable[..., Any], *args: Any) -> Node:
        node = self.graph.call_function(target, args)
        fakes = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
        fields = [(fake.shape, fake.dtype, fake.stride()) if isinstance(fake, torch.Tensor) else fake for fake in fakes]
        key = str((target, fields))
        if key not in self.values:
            with self.mode:
                self.values[key] = target(*fakes)
        node.meta["val"] = self.values[key]
        return node

    def cast(self, node: Node, dtype: torch.dtype) -> Node:
        return self.call(prims.convert_element_type.default, node, dtype)

    def norm(self, x: Node, weight: Node) -> Node:
        wide = self.cast(x, _FP32)
        mean = self.call(aten.mean.dim, self.call(aten.pow.Tensor_Scalar, wide, 2), [-1], True)
        rstd = self.call(aten.rsqrt.default, self.call(aten.add.Tensor, mean, 1e-6))
        return self.call(aten.mul.Tensor, weight, self.cast(self.call(aten.mul.Tensor, wide, rstd), _BF16))

    def quantize(self, x: Node) -> tuple[Node, Node]:
        amax = self.call(aten.amax.default, self.call(aten.abs.default, x), [-1], True)
        scale = self.cast(self.call(aten.div.Tensor, amax, 448.0), _FP32)
        value = self.call(aten.div.Tensor, self.cast(x, _FP32), scale)
        clamped = self.call(aten.clamp_max.default, self.call(aten.clamp_min.default, value, -448.0), 448.0)
        return self.cast(clamped, _FP8), scale

    def product(self, q: Node, scale: Node, b: Node, b_scale: Node) -> Node:
        transposed = self.call(aten.permute.default, b, [1, 0])
        return self.call(aten._scaled_mm.default, q, transposed, scale, b_scale, None, None, _BF16)


def _seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = function()
    return time.process_time() - started, result
