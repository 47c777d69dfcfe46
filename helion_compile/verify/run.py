# SPDX-License-Identifier: Apache-2.0
"""Running a rewritten graph once, and at each fused site the original beside it, on the same inputs.

Graphs that the graph calls (repeated regions, branches, loops) are run so too, and what is found in all calls of one is put
together.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.fx import GraphModule, Interpreter, Node

from helion_compile.passes.account.records import GraphRecord, Site
from helion_compile.passes.semantics import Quantize
from helion_compile.verify.compare import Compared, compare
from helion_compile.verify.contract import contract_of
from helion_compile.verify.fp64 import in_fp64

__all__ = ["merge_worst", "run_verified"]


_Found: TypeAlias = dict[str, tuple[Compared, ...]]  # by the node of a site


def run_verified(
    module: GraphModule, records: Mapping[GraphModule, GraphRecord], inputs: Sequence[Any], numerics: str
) -> tuple[Any, dict[GraphModule, _Found]]:
    """The results of ``module(*inputs)``, and for the node of each site how far its results are from the original's.

    Args:
        records: of the pass that rewrote ``module`` and the graphs that it calls, with ``keep_originals=True``.
        numerics: the option the pass was made with, which decides the contract.
    """
    found: dict[GraphModule, _Found] = {each: {} for each in records}
    with torch.no_grad():
        return _Verified(module, records, numerics, found).run(*inputs), found


def merge_worst(known: Sequence[Compared], more: Sequence[Compared]) -> tuple[Compared, ...]:
    """Of each output what is farthest from the original; what is broken comes first."""
    by_output: dict[str, list[Compared]] = {}
    for each in (*known, *more):
        by_output.setdefault(each.output, []).append(each)
    return tuple(
        max(found, key=lambda each: (bool(each.broken), each.max_steps, each.differing)) for found in by_output.values()
    )


class _Verified(Interpreter):
    def __init__(
        self,
        module: GraphModule,
        records: Mapping[GraphModule, GraphRecord],
        numerics: str,
        found: dict[GraphModule, _Found],
    ) -> None:
        super().__init__(module)
        record = records[module]
        self._records = records
        self._graph_module = module
        self._record = record
        self._numerics = numerics
        self._all_found = found
        nodes = {node.name: node for node in module.graph.nodes}
        order = {name: index for index, name in enumerate(nodes)}
        self._nodes = nodes
        # The node after which all of a site's results are there, and all that the original reads: sizes may be computed later.
        self._ready: dict[Node, list[Site]] = {}
        for site in record.sites:
            original = record.originals[site.node]
            last = nodes[max((*original.inputs, *original.outputs), key=order.__getitem__)]
            self._ready.setdefault(last, []).append(site)
            self._keep_until(last, original.inputs + original.outputs)

    def _keep_until(self, last: Node, names: Sequence[str]) -> None:
        """Values that the original reads have to live until then."""
        wanted = {self._nodes[name] for name in names}
        for node, dying in list(self.user_to_last_uses.items()):
            if node < last:
                self.user_to_last_uses[node] = [each for each in dying if each not in wanted]
                moved = [each for each in dying if each in wanted]
                self.user_to_last_uses.setdefault(last, []).extend(moved)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A graph that has sites, or calls one that has, is given to its caller as what runs it verified."""
        value = super().get_attr(target, args, kwargs)
        if isinstance(value, GraphModule) and any(
            self._records[each].sites for each in value.modules() if isinstance(each, GraphModule) and each in self._records
        ):
            return functools.partial(self._run_called, value)
        return value

    def _run_called(self, module: GraphModule, *inputs: Any) -> Any:
        return _Verified(module, self._records, self._numerics, self._all_found).run(*inputs)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._ready:
            self.env[n] = value  # as the caller will, after this returns
            for site in self._ready[n]:
                found = self._all_found[self._graph_module]
                compared = self._compared(site)
                found[site.node] = merge_worst(found[site.node], compared) if site.node in found else compared
        return value

    def _compared(self, site: Site) -> tuple[Compared, ...]:
        original = self._record.originals[site.node]
        inputs = tuple(self.env[self._nodes[name]] for name in original.inputs)
        expected, truths = original.module(*inputs), in_fp64(original.module, inputs)
        contract = contract_of(site.ops, self._numerics)
        fused = [self.env[self._nodes[output]] for output in original.outputs]
        if any(isinstance(op, Quantize) and op.amax_of_zeros is not None for op in site.ops):
            fused = _without_scales_of_zeros(original.names, fused, expected)
        found = [
            compare(name, value, expected[index], None if truths is None else truths[index], contract)
            for index, (name, value) in enumerate(zip(original.names, fused, strict=True))
        ]
        return tuple(dict.fromkeys(found))  # copies that the model computes are compared each, and told once


def _without_scales_of_zeros(
    names: Sequence[str], fused: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """``fused`` with the original's scales at rows of zeros: products alone read them there, and give 0 with any number."""
    if "q" not in names:
        return list(fused)
    where = names.index("q")
    zeros = torch.stack([(q[where].float() == 0).all(-1) for q in (fused, expected)]).all(0).flatten()
    return [
        torch.where(zeros.view_as(value) & value.isfinite(), scale, value)
        if name == "scale" and value.numel() == zeros.numel()
        else value
        for name, value, scale in zip(names, fused, expected, strict=True)
    ]
