# SPDX-License-Identifier: Apache-2.0
"""Records of a rewritten or kept chain."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch.fx import Node

from helion_compile.passes.account.records import Site
from helion_compile.passes.account.refusal import Refusal
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import tensor_text
from helion_compile.passes.match.chain import Chain
from helion_compile.passes.match.match import Match
from helion_compile.passes.match.progress import steps_of

__all__ = ["list_steps", "pattern_name", "record_kept", "record_match", "record_site"]

_CHECKS = ("the kernel computes this", "there is a place for it")


def record_site(fusion: str, chain: Chain, shapes: dict[str, Node], call: Node, emitted: Sequence[Node]) -> Site:
    """The site of a chain that ``emitted`` nodes replace, the first of which that runs something is ``call``."""
    replaced = tuple(node.name for node in sorted(chain.nodes))
    nodes = tuple(node.name for node in emitted)
    return _record(fusion, chain.matches, shapes, call, replaced=replaced, nodes=nodes)


def record_kept(name: str, chain: Chain, nodes: Sequence[Node], refusal: Refusal) -> Site:
    """The site of a chain that a fusion found unprofitable; ``nodes`` are those of it that are left."""
    shapes = chain.inputs | {output: copies[0] for _, output, copies in chain.outputs()}
    return _record(name, chain.matches, shapes, chain.anchor, nodes=tuple(node.name for node in nodes), refusal=refusal)


def record_match(match: Match) -> Site:
    """The site of a match that no fusion takes and that is kept."""
    shapes = match.inputs | {output: copies[0] for output, copies in match.outputs.items()}
    nodes = tuple(node.name for node in sorted(match.nodes))
    return _record(pattern_name(match), [match], shapes, match.last, nodes=nodes)


def list_steps(chain: Chain, passed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The steps by which a chain was found with the checks it ``passed``, and the checks that it did not."""
    steps = [
        f"{match.op.name}: {step}" if step else match.op.name
        for match in chain.matches
        for step in steps_of(pattern_name(match)) or ("",)
    ]
    return (*steps, *_CHECKS[:passed]), _CHECKS[passed:]


def pattern_name(match: Match) -> str:
    """What the patterns of a match's op are called: "norm", "complex_rope"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(match.op).__name__).lower()


def _record(
    name: str,
    matches: Sequence[Match],
    shapes: dict[str, Node],
    node: Node,
    *,
    replaced: tuple[str, ...] = (),
    nodes: tuple[str, ...] = (),
    refusal: Refusal | None = None,
) -> Site:
    return Site(
        fusion=name,
        location=Location.of(matches[-1].last),
        ops=tuple(match.op for match in matches),
        shapes={name: tensor_text(node) for name, node in shapes.items()},
        merged=matches[-1].merged,
        node=node.name,
        replaced=replaced,
        nodes=nodes,
        anchor=matches[-1].last.name,
        refusal=refusal,
    )
