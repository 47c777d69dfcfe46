"""The pass that rewrites a graph: read, choose, replace, and account for every candidate."""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph, Node

from passes import reading
from passes.chain import Chain, find
from passes.edits import Edits
from passes.emitting import Emitter
from passes.fusion import Fusion, Leave
from passes.meanings import Matmul, Meaning
from passes.placement import Misplaced, Placement
from passes.records import GraphRecord, Refusal, Site
from passes.region import Region
from passes.source import Location
from passes.values import tensor_text

__all__ = ["FusionError", "FusionPass"]

log = logging.getLogger(__name__)


class FusionError(RuntimeError):
    """The pass failed on a graph.  ``site`` is the source location at which, None when it was at none in particular."""

    def __init__(self, message: str, site: Location | None):
        super().__init__(message)
        self.site = site


class FusionPass(CustomGraphPass):
    """Replaces chains of meanings by what ``fusions`` build for them.

    For ``torch._inductor.config.post_grad_custom_pre_pass``.  Fusions are tried in the order given; a region is part of
    one replacement at most.  A graph on which the pass fails stays as it was, with one warning and the reason in
    ``GraphRecord.error``.

    Args:
        fusions: what becomes what, the preferred first.
        strict: raise ``FusionError`` where the pass fails, instead of leaving the graph alone.
        disable: names of fusions to leave out.
        only: names of the fusions to use; None for all.
        keep: meanings that are reported as kept when no fusion takes them.
        keep_code: put the readable code of the graph before and after into the record.
        identity: a string that differs when what the fusions build differs: versions of kernels, config tables.
        on_record: called with the GraphRecord of every graph.
        log: told one line a graph at INFO, every site and refusal at DEBUG, and failures as warnings.

    Raises:
        ValueError: a name in ``disable`` or ``only`` is no fusion's name, or two fusions have one name.
    """

    def __init__(
        self,
        fusions: Sequence[Fusion],
        *,
        strict: bool = False,
        disable: Collection[str] = (),
        only: Collection[str] | None = None,
        keep: Collection[type[Meaning]] = (Matmul,),
        keep_code: bool = False,
        identity: str = "",
        on_record: Callable[[GraphRecord], None] | None = None,
        log: logging.Logger = log,
    ):
        names = [fusion.name for fusion in fusions]
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"fusions need names of their own, found more than one called {', '.join(repeated)}")
        for option, chosen in (("disable", disable), ("only", only or ())):
            if isinstance(chosen, str):
                raise ValueError(f"{option}={chosen!r}: expected a collection of names, as [{chosen!r}]")
            if unknown := [name for name in chosen if name not in names]:
                raise ValueError(
                    f"{option}={list(chosen)}: no fusion is called {', '.join(map(repr, unknown))}; "
                    f"there are {', '.join(map(repr, names)) or 'none'}"
                )
        self.fusions = tuple(
            fusion for fusion in fusions if fusion.name not in disable and (only is None or fusion.name in only)
        )
        self.strict = strict
        self.keep = tuple(keep)
        self.keep_code = keep_code
        self.identity = identity
        self.on_record = on_record
        self.log = log
        self.records: list[GraphRecord] = []

    def __call__(self, graph: Graph) -> None:
        started = time.perf_counter()
        record = GraphRecord(nodes=len(graph.nodes), before=self._code(graph))
        edits = Edits(graph)
        rewriting = _Rewriting(self, graph, edits)
        failure = None
        try:
            rewriting.run(record)
        except Exception as error:
            edits.undo()
            failure = FusionError(
                f"the fusion pass failed {rewriting.doing}: {type(error).__name__}: {_first_line(error)}"
                + ("" if self.strict else "; the graph is compiled without fusions"),
                rewriting.location,
            )
            failure.__cause__ = error
            record = GraphRecord(nodes=record.nodes, before=record.before, error=str(failure))
        record.after = self._code(graph)
        record.seconds = time.perf_counter() - started
        self._report(record)
        if failure:
            if self.strict:
                raise failure
            details = self.log.isEnabledFor(logging.DEBUG) and failure.__cause__
            self.log.warning("%s", failure, exc_info=details)

    def uuid(self) -> str:
        """What Inductor's caches know the pass by, equal in every process.

        Covers the sources of this package, torch's version, the names of the fusions in use, ``strict`` (a graph that
        was left alone must not be served where a failure is to raise) and ``identity``.  What ``build`` and ``refuse``
        do is covered by ``identity`` alone.
        """
        options = repr((torch.__version__, [fusion.name for fusion in self.fusions], self.strict, self.identity))
        return hashlib.sha256(f"{_sources()}{options}".encode()).hexdigest()

    def __deepcopy__(self, memo: dict) -> FusionPass:
        # Inductor deep-copies its config; the copy is still the pass whose records the caller reads.
        return self

    def __getstate__(self) -> dict:
        return self.__dict__ | {"records": [], "on_record": None}

    def _code(self, graph: Graph) -> str:
        return graph.python_code("self", verbose=True).src.strip() if self.keep_code else ""

    def _report(self, record: GraphRecord) -> None:
        self.records.append(record)
        if not record.error:
            self.log.info("%s", record.summary())
        for site in record.sites:
            self.log.debug("fused %s at %s: %s", site.fusion, site.location, " -> ".join(site.meanings))
        for refusal in record.refusals:
            self.log.debug("not fused %s at %s: %s", refusal.candidate, refusal.location, refusal.reason)
        if self.on_record:
            try:
                self.on_record(record)
            except Exception:
                self.log.warning("on_record failed for a graph", exc_info=True)


@dataclass
class _Replacement:
    chain: Chain
    emitter: Emitter
    site: Site
    outputs: list[tuple[Node, Node]]  # (original, new)


class _Rewriting:
    """One run of the pass over one graph."""

    def __init__(self, owner: FusionPass, graph: Graph, edits: Edits):
        self.owner = owner
        self.graph = graph
        self.edits = edits
        self.doing = "while reading the graph"
        self.location: Location | None = None

    def run(self, record: GraphRecord) -> None:
        read = reading.read(self.graph)
        record.refusals += read.refusals
        chosen = self._choose(read, record)
        replacements = [self._build(*choice) for choice in chosen]
        self._replace(replacements)
        record.sites += [replacement.site for replacement in replacements]
        used = {region.anchor for replacement in replacements for region in replacement.chain.regions}
        for region in read.regions:
            if region.anchor in used:
                continue
            if isinstance(region.meaning, self.owner.keep):
                shapes = region.inputs | {name: copies[0] for name, copies in region.outputs.items()}
                record.kept.append(_site(_name(region), [region], shapes, region.last))
            else:
                record.unclaimed[_name(region)] = record.unclaimed.get(_name(region), 0) + 1

    def _choose(self, read: reading.Reading, record: GraphRecord) -> list[tuple[Fusion, Chain, Node]]:
        """The chains to replace and the node behind which each replacement stands."""
        placement = Placement(self.graph)
        used: set[Node] = set()
        chosen = []
        for fusion in self.owner.fusions:
            for alternatives in find(read, fusion.chain, used):
                for chain in alternatives:
                    place = self._place(fusion, chain, placement)
                    if isinstance(place, Node):
                        chosen.append((fusion, chain, place))
                        used.update(region.anchor for region in chain.regions)
                        break
                    log.debug("%s does not take %s at %s: %s", fusion.name, chain, self.location, place)
                else:
                    # The reason that counts is that of the last alternative, which asks for least.
                    if not isinstance(place, Leave):
                        record.refusals.append(Refusal(fusion.name, place, Location.of(chain.anchor), chain.anchor.name))
        return chosen

    def _place(self, fusion: Fusion, chain: Chain, placement: Placement) -> Node | str:
        """The node behind which the chain's replacement stands, or the reason why there is none."""
        self._at(f"in refuse of {fusion.name!r}", chain)
        if reason := fusion.refuse(chain):
            return reason
        self._at("while placing a replacement", chain)
        try:
            return placement.after(chain)
        except Misplaced as misplaced:
            return str(misplaced)

    def _build(self, fusion: Fusion, chain: Chain, after: Node) -> _Replacement:
        self._at(f"in build of {fusion.name!r}", chain)
        emitter = Emitter(self.edits, chain, after)
        built = fusion.build(chain, emitter)
        outputs, shapes = [], dict(chain.inputs)
        for meaning, name, _ in chain.outputs():
            for original in chain.wanted(meaning, name):
                shapes[name] = original
                if (meaning, name) not in built:
                    raise ValueError(f"no node for {meaning.__name__}'s {name!r}, which has readers outside the chain")
                outputs.append((original, emitter.in_place_of(original, built[meaning, name])))
        site = _site(fusion.name, chain.regions, shapes, emitter.nodes[0])
        return _Replacement(chain, emitter, site, outputs)

    def _replace(self, replacements: list[_Replacement]) -> None:
        for replacement in replacements:
            self._at("while replacing", replacement.chain)
            for original, new in replacement.outputs:
                self.edits.redirect(original, new, keep=replacement.chain.nodes)
            self.edits.settle(replacement.emitter.nodes)
        self.doing, self.location = "while checking the graph", None
        self.graph.lint()
        self.edits.erase({node for replacement in replacements for node in replacement.chain.nodes})

    def _at(self, doing: str, chain: Chain) -> None:
        self.location = Location.of(chain.anchor)
        self.doing = f"{doing} at {self.location}"


def _site(name: str, regions: Sequence[Region], shapes: dict[str, Node], node: Node) -> Site:
    return Site(
        fusion=name,
        location=Location.of(regions[-1].last),
        meanings=tuple(str(region.meaning) for region in regions),
        shapes={name: tensor_text(node) for name, node in shapes.items()},
        merged=regions[-1].merged,
        node=node.name,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _name(region: Region) -> str:
    return type(region.meaning).__name__.lower()


@functools.cache
def _sources() -> str:
    """A hash of every source file of this package."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
