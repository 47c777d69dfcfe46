# SPDX-License-Identifier: Apache-2.0
"""``options={"verify": True}``: before a graph is compiled, its sites are checked, and the broken ones left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule

from helion_compile.frontend.capture import inspect_graph
from helion_compile.passes.account.refusal import Detail, Refusal, RefusalKind
from helion_compile.reports.model import FusedSite, GraphReport
from helion_compile.verify import Compared, merge_worst

__all__ = ["Checked", "verify_graph"]

log = logging.getLogger("helion_compile")


@dataclass
class Checked:
    """What a check of one graph found.

    Attributes:
        reject: the broken chains, by fusion and anchor as ``FusionPass(reject=…)`` takes them, each with the refusal.
        compared: what was measured, by the anchors of the sites that are left.
    """

    reject: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    compared: dict[tuple[str, str], tuple[Compared, ...]] = field(default_factory=dict)

    def add_to(self, report: GraphReport) -> GraphReport:
        """The report of the graph as it is compiled, with what was measured."""
        sites = [fused.site for fused in report.fused]
        return report.with_verified({site.node: self.compared.get((site.fusion, site.anchor), ()) for site in sites})


def verify_graph(module: GraphModule, inputs: Sequence[Any], mode: str | None, options: Mapping[str, Any] | None) -> Checked:
    """Run the graph once, node by node, on the values of the call for which it is compiled, and compare.

    A chain that is left out can be taken by another fusion, which is then checked in turn.
    """
    checked = Checked()
    while True:
        broken, seen = False, dict[tuple[str, str], tuple[Compared, ...]]()
        for inspected in inspect_graph(module, inputs, mode, options, verify=True, reject=checked.reject):
            for fused in inspected.report.fused:
                key = fused.site.fusion, fused.site.anchor
                # Nodes of graphs that one graph calls may have one name: then what is said of both is the worse.
                seen[key] = merge_worst(seen[key], fused.verified) if key in seen else fused.verified
                checked.compared[key] = seen[key]
                if refusal := _refuse_broken(fused):
                    broken = True
                    checked.reject[key] = refusal
                    log.warning("%s at %s is not fused: %s", fused.site.fusion, fused.site.location, refusal)
        if not broken:
            return checked


def _refuse_broken(fused: FusedSite) -> Refusal | None:
    results = [f"{compared.output}: {compared.broken}" for compared in fused.verified if compared.broken]
    if not results:
        return None
    return Refusal(
        RefusalKind.VERIFY,
        fused.site.anchor,
        "verify ran {kernel} against the original on the values of the first call, and its contract is broken for {results}",
        "a kernel that keeps to it fuses",
        (Detail.of("kernel", fused.kernel), Detail.of("results", " and ".join(results))),
    )
