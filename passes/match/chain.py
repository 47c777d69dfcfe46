"""Regions that feed one another, as a fusion sees them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch.fx import Node

from helion_compile.passes.ir.values import RESHAPES, VIEWS
from helion_compile.passes.match.match_graph import Reading
from helion_compile.passes.match.region import Region, dying
from helion_compile.passes.semantics import Activation, Matmul, Meaning, Norm, Quantize, Rope

__all__ = ["Chain", "Reader", "find"]

# (producer, consumer) -> input of the consumer: output of the producer
LINKS: dict[tuple[type[Meaning], type[Meaning]], dict[str, str]] = {
    (Norm, Quantize): {"x": "out"},
    (Activation, Quantize): {"x": "out"},
    (Norm, Rope): {"x": "out"},
    (Quantize, Matmul): {"a": "q", "a_scale": "scale"},
}


@dataclass(frozen=True)
class Reader:
    """Who reads an output of a chain, behind views."""

    node: Node  # the reader itself, no view
    views: tuple[Node, ...]  # from the output to the reader
    region: Region | None  # of which the reader is part, if its meaning is known


class Chain:
    """Regions one behind the other, found in a graph; what ``Fusion.refuse`` and ``Fusion.build`` are given.

    ``chain[Norm]`` is the region of that meaning.  ``inputs`` holds the nodes that come from outside, by the names that
    the meanings give them: a chain of Norm and Quantize has "x", "weight" and "residual", and no "x" of Quantize.
    """

    def __init__(self, regions: Sequence[Region], reading: Reading):
        self.regions = tuple(regions)
        self._reading = reading
        self.inputs: dict[str, Node] = {}
        nodes: dict[Node, None] = {}
        cheap: set[Node] = set()
        producer = None
        for region in self.regions:
            inside = LINKS[type(producer.meaning), type(region.meaning)] if producer else {}
            for name, node in region.inputs.items():
                if name in inside:
                    between = _views_between(node, producer.outputs[inside[name]])
                    nodes |= between
                    cheap |= between.keys()
                elif self.inputs.setdefault(name, node) is not node:
                    raise ValueError(f"two inputs of {self} are called {name!r}; give one another name in its meaning")
            nodes |= region.nodes
            cheap |= region.cheap
            producer = region
        self.nodes = dying(nodes, cheap)

    def __getitem__(self, meaning: type[Meaning]) -> Region:
        for region in self.regions:
            if isinstance(region.meaning, meaning):
                return region
        raise KeyError(f"no {meaning.__name__} in {self}")

    def __str__(self) -> str:
        return " -> ".join(str(region.meaning) for region in self.regions)

    @property
    def anchor(self) -> Node:
        """The last step's output: where a report says that the chain is."""
        return self.regions[-1].last

    def outputs(self) -> Iterator[tuple[type[Meaning], str, tuple[Node, ...]]]:
        """Every output of every region, with all its copies in the graph."""
        for region in self.regions:
            for name, copies in region.outputs.items():
                yield type(region.meaning), name, copies

    def wanted(self, meaning: type[Meaning], output: str) -> tuple[Node, ...]:
        """The copies of an output that something outside the chain reads; empty when the chain alone needs it."""
        copies = self[meaning].outputs.get(output, ())
        return tuple(node for node in copies if any(user not in self.nodes for user in node.users))

    def beside(self, meaning: type[Meaning], name: str) -> list[Region]:
        """Other regions of this kind of meaning that are given the same values as ``name``: q, k and v, of one norm."""
        return self._reading.beside(self[meaning], name)

    def readers(self, meaning: type[Meaning], output: str) -> list[Reader]:
        """Who reads an output outside the chain, seen through reshapes, permutations and other views."""
        found: list[Reader] = []
        pending = [(node, ()) for node in self[meaning].outputs.get(output, ())]
        while pending:
            node, views = pending.pop()
            for user in node.users:
                if user in self.nodes:
                    continue
                if user.target in VIEWS:
                    pending.append((user, (*views, user)))
                else:
                    found.append(Reader(user, views, self._reading.owners.get(user)))
        return found


def find(reading: Reading, meanings: Sequence[type[Meaning]], used: Collection[Node]) -> Iterator[list[Chain]]:
    """Chains of ``meanings`` none of whose regions has its anchor in ``used``.

    Each comes as its alternatives, the one that takes in most first.
    """
    for region in reading.regions:
        if not isinstance(region.meaning, meanings[-1]):
            continue
        chain: list[Region] | None = [region]
        for meaning in reversed(meanings[:-1]):
            producer = _producer(reading, chain[0], meaning)
            if producer is None:
                chain = None
                break
            chain.insert(0, producer)
        # An operator of two meanings has the value between them in no tensor, so the second cannot be taken alone.
        if chain and any(isinstance(node.meta.get("val"), tuple) for node in chain[0].inputs.values()):
            continue
        if chain and not any(link.anchor in used for link in chain):
            choices = ([region, *_narrower(region)] for region in chain)
            yield [Chain(regions, reading) for regions in itertools.product(*choices)]


def _producer(reading: Reading, consumer: Region, meaning: type[Meaning]) -> Region | None:
    """The region of ``meaning`` that computes all linked inputs of ``consumer``."""
    sources = set()
    for name, output in LINKS.get((meaning, type(consumer.meaning)), {}).items():
        region, found = reading.source(consumer.inputs[name]) or (None, None)
        sources.add(region if found == output else None)
    producer = sources.pop() if len(sources) == 1 else None
    return producer if producer and isinstance(producer.meaning, meaning) else None


def _narrower(region: Region) -> Iterator[Region]:
    while region.narrower:
        region = region.narrower
        yield region


def _views_between(node: Node, outputs: tuple[Node, ...]) -> dict[Node, None]:
    views: dict[Node, None] = {}
    while node not in outputs and node.target in RESHAPES:
        views[node] = None
        node = node.args[0]
    return views
