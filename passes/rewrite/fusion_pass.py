"""The pass that rewrites a graph: read, choose, replace, and account for every candidate."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch.fx import Graph, Node

from helion_compile import passes
from helion_compile.passes.account.op_counts import inventory
from helion_compile.passes.account.original_subgraph import original
from helion_compile.passes.account.records import GraphRecord, Refusal, Site, Unfused
from helion_compile.passes.compat import CustomGraphPass
from helion_compile.passes.digest import digest_sources
from helion_compile.passes.ir.dynamic_sizes import symbols_of
from helion_compile.passes.ir.graph_listing import Line, is_view, listing
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import tensor_text
from helion_compile.passes.match import matched_graph
from helion_compile.passes.match.chain import Chain, find
from helion_compile.passes.match.match import Match
from helion_compile.passes.match.progress import steps_of
from helion_compile.passes.rewrite.cse import share
from helion_compile.passes.rewrite.edits import Edits
from helion_compile.passes.rewrite.emitter import Emitter
from helion_compile.passes.rewrite.fusion import Fusion, Leave
from helion_compile.passes.rewrite.insertion_point import Misplaced, Placement
from helion_compile.passes.rewrite.unfused import explain_unfused
from helion_compile.passes.semantics import Matmul, SemanticOp

__all__ = ["FusionError", "FusionPass"]

log = logging.getLogger(__name__)

# What torch.export writes beside each cast: that its input has the dtype it had.  Inductor drops them right after this pass.
_ASSERTION = torch.ops.aten._assert_tensor_metadata.default


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
        keep_originals: put what each replacement stands for into the record, to be run and compared.
        reject: chains to leave alone, by the fusion's name and ``Site.anchor``, each with the reason.
        identity: a string that differs when what the fusions build differs: versions of kernels, config tables.
        on_record: called with the GraphRecord of every graph.
        on_graph: called with the graph and its GraphRecord, before Inductor goes on with it.
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
        keep: Collection[type[SemanticOp]] = (Matmul,),
        keep_code: bool = False,
        keep_originals: bool = False,
        reject: Mapping[tuple[str, str], str] = MappingProxyType({}),
        identity: str = "",
        on_record: Callable[[GraphRecord], None] | None = None,
        on_graph: Callable[[Graph, GraphRecord], None] | None = None,
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
        self.keep_originals = keep_originals
        self.reject = dict(reject)
        self.identity = identity
        self.on_record = on_record
        self.on_graph = on_graph
        self.log = log
        self.records: list[GraphRecord] = []

    def __call__(self, graph: Graph) -> None:
        started = time.perf_counter()
        record = GraphRecord(nodes=len(graph.nodes), inventory=inventory(graph), symbols=symbols_of(graph))
        record.before, record.lines_before = self._code(graph)
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
            kept = ("nodes", "inventory", "symbols", "before", "lines_before")
            record = GraphRecord(**{name: getattr(record, name) for name in kept}, error=str(failure))
        # Writing a graph down is half of the pass's time: a graph that was left alone is not written twice.
        changed = rewriting.changed and failure is None
        record.after, record.lines_after = self._code(graph) if changed else (record.before, record.lines_before)
        record.seconds = time.perf_counter() - started
        self._report(graph, record)
        if failure:
            if self.strict:
                raise failure
            details = self.log.isEnabledFor(logging.DEBUG) and failure.__cause__
            self.log.warning("%s", failure, exc_info=details)

    def uuid(self) -> str:
        """What Inductor's caches know the pass by, equal in every process.

        Covers the sources of this package, torch's version, the names of the fusions in use, ``strict`` (a graph that
        was left alone must not be served where a failure is to raise), ``reject`` and ``identity``.  What ``build`` and
        ``refuse`` do is covered by ``identity`` alone.
        """
        names = [fusion.name for fusion in self.fusions]
        options = repr((torch.__version__, names, self.strict, sorted(self.reject), self.identity))
        return hashlib.sha256(f"{digest_sources(Path(passes.__file__).parent)}{options}".encode()).hexdigest()

    def __deepcopy__(self, memo: dict) -> FusionPass:
        # Inductor deep-copies its config; the copy is still the pass whose records the caller reads.
        return self

    def __getstate__(self) -> dict:
        return self.__dict__ | {"records": [], "on_record": None, "on_graph": None}

    def _code(self, graph: Graph) -> tuple[str, tuple[Line, ...]]:
        return (graph.python_code("self", verbose=True).src.strip(), listing(graph)) if self.keep_code else ("", ())

    def _report(self, graph: Graph, record: GraphRecord) -> None:
        self.records.append(record)
        if not record.error:
            self.log.info("%s", record.summary())
        for line in record.details():
            self.log.debug("%s", line)
        for name, callback, arguments in (
            ("on_record", self.on_record, (record,)),
            ("on_graph", self.on_graph, (graph, record)),
        ):
            if callback:
                try:
                    callback(*arguments)
                except Exception:
                    self.log.warning("%s failed for a graph", name, exc_info=True)


@dataclass
class _Replacement:
    fusion: Fusion
    chain: Chain
    emitter: Emitter
    shapes: dict[str, Node]
    outputs: list[tuple[str, Node, Node]]  # name, old, new

    def site(self) -> Site:
        emitted = [node for node in self.emitter.nodes if not is_view(node)] or self.emitter.nodes
        return _site(
            self.fusion.name,
            self.chain.matches,
            self.shapes,
            emitted[0],
            replaced=tuple(node.name for node in sorted(self.chain.nodes)),
            nodes=tuple(node.name for node in self.emitter.nodes),
        )


@dataclass
class _Left:
    fusion: Fusion
    chain: Chain
    reason: str
    shares: bool

    def site(self, keep: tuple[type[SemanticOp], ...], erased: Collection[Node]) -> Site:
        matches = self.chain.matches
        name = _name(matches[0]) if len(matches) == 1 and isinstance(matches[0].op, keep) else self.fusion.name
        shapes = self.chain.inputs | {name: copies[0] for _, name, copies in self.chain.outputs()}
        nodes = tuple(node.name for node in sorted(self.chain.nodes) if node not in erased)
        return _site(name, matches, shapes, self.chain.anchor, nodes=nodes, reason=self.reason)


class _Rewriting:
    """One run of the pass over one graph."""

    def __init__(self, owner: FusionPass, graph: Graph, edits: Edits):
        self.owner = owner
        self.graph = graph
        self.edits = edits
        self.doing = "while reading the graph"
        self.location: Location | None = None
        self.refused: dict[Node, list[str]] = {}  # a region's anchor -> the fusions that did not take it
        self.left: list[_Left] = []
        self.changed = False  # chains that stay are shared, so a graph without a site may be another one

    def run(self, record: GraphRecord) -> None:
        assertions = {node for node in self.graph.nodes if node.target is _ASSERTION}
        self.edits.silence(assertions)  # else they count as readers of what a chain keeps to itself
        read = matched_graph.match_graph(self.graph)
        record.refusals += read.refusals
        chosen = self._choose(read, record)
        used = {match.anchor for _, chain, _ in chosen for match in chain.matches}
        used |= {match.anchor for left in self.left for match in left.chain.matches}
        # Before new nodes are made, which would be counted among the readers.
        for match in read.matches:
            if match.anchor not in used and not isinstance(match.op, self.owner.keep):
                reason = explain_unfused(match, read, self.owner.fusions, self.refused.get(match.anchor, ()))
                location = Location.of(match.last)
                record.unfused.append(Unfused(_name(match), str(match.op), location, match.last.name, reason))
        replacements = [self._build(*choice) for choice in chosen]
        record.sites += [replacement.site() for replacement in replacements]
        if self.owner.keep_originals:
            new = {old: new for replacement in replacements for _, old, new in replacement.outputs}
            for replacement, site in zip(replacements, record.sites, strict=True):
                chain = replacement.chain
                within = {node for match in chain.matches for node in match.nodes}
                record.originals[site.node] = original(replacement.outputs, chain.inputs.values(), new, within)
        dead = self._replace(replacements)
        record.kept += [left.site(self.owner.keep, dead) for left in self.left]
        self.changed = bool(dead)
        if self.changed:
            self.edits.erase(dead | assertions)
        else:
            self.edits.undo()
        for match in read.matches:
            if match.anchor not in used and isinstance(match.op, self.owner.keep):
                shapes = match.inputs | {name: copies[0] for name, copies in match.outputs.items()}
                nodes = tuple(node.name for node in sorted(match.nodes))
                record.kept.append(_site(_name(match), [match], shapes, match.last, nodes=nodes))

    def _choose(self, read: matched_graph.MatchedGraph, record: GraphRecord) -> list[tuple[Fusion, Chain, Node]]:
        """The chains to replace and the node behind which each replacement stands."""
        placement = Placement(self.graph)
        used: set[Node] = set()
        chosen = []
        for fusion in self.owner.fusions:
            for choices in find(read, fusion.chain, used):
                for chain in choices:
                    place, reached = self._place(fusion, chain, placement)
                    if isinstance(place, Node):
                        chosen.append((fusion, chain, place))
                        used.update(match.anchor for match in chain.matches)
                        break
                    if isinstance(place, Leave):
                        self.left.append(_Left(fusion, chain, str(place), self._may_share(chain, placement)))
                        used.update(match.anchor for match in chain.matches)
                        break
                    log.debug("%s does not take %s at %s: %s", fusion.name, chain, self.location, place)
                else:
                    # The reason that counts is that of the last alternative, which asks for least.
                    matched, missing = _steps(chain, reached)
                    location = Location.of(chain.anchor)
                    record.refusals.append(Refusal(fusion.name, place, location, chain.anchor.name, matched, missing))
                    for match in chain.matches:
                        self.refused.setdefault(match.anchor, []).append(fusion.name)
        return chosen

    def _place(self, fusion: Fusion, chain: Chain, placement: Placement) -> tuple[Node | str, int]:
        """The node behind which the chain's replacement stands, or the reason why there is none; and the checks passed."""
        self._at(f"in refuse of {fusion.name!r}", chain)
        if reason := self.owner.reject.get((fusion.name, chain.anchor.name)) or fusion.refuse(chain):
            return reason, 0
        self._at("while placing a replacement", chain)
        try:
            return placement.after(chain), 2
        except Misplaced as misplaced:
            return str(misplaced), 1

    def _may_share(self, chain: Chain, placement: Placement) -> bool:
        """Whether the copies in a chain that stays are copies still where they are read."""
        try:
            placement.after(chain)
        except Misplaced:
            return False
        return True

    def _build(self, fusion: Fusion, chain: Chain, after: Node) -> _Replacement:
        self._at(f"in build of {fusion.name!r}", chain)
        emitter = Emitter(self.edits, chain, after, fusion.name)
        built = fusion.build(chain, emitter)
        outputs, shapes = [], dict(chain.inputs)
        for op, name, _ in chain.outputs():
            for old in chain.wanted(op, name):
                shapes[name] = old
                if (op, name) not in built:
                    raise ValueError(f"no node for {op.__name__}'s {name!r}, which has readers outside the chain")
                outputs.append((name, old, emitter.in_place_of(old, built[op, name])))
        return _Replacement(fusion, chain, emitter, shapes, outputs)

    def _replace(self, replacements: list[_Replacement]) -> set[Node]:
        """The nodes that nobody reads any more."""
        for replacement in replacements:
            self._at("while replacing", replacement.chain)
            for _, old, new in replacement.outputs:
                self.edits.redirect(old, new, keep=replacement.chain.nodes)
            self.edits.settle(replacement.emitter.nodes)
        dead = {node for replacement in replacements for node in replacement.chain.nodes}
        for left in self.left:
            self._at("while sharing what stays", left.chain)
            if left.shares:
                dead |= share(left.chain, self.edits)
        self.doing, self.location = "while checking the graph", None
        self.graph.lint()
        return dead

    def _at(self, doing: str, chain: Chain) -> None:
        self.location = Location.of(chain.anchor)
        self.doing = f"{doing} at {self.location}"


def _site(
    name: str,
    matches: Sequence[Match],
    shapes: dict[str, Node],
    node: Node,
    *,
    replaced: tuple[str, ...] = (),
    nodes: tuple[str, ...] = (),
    reason: str = "",
) -> Site:
    return Site(
        fusion=name,
        location=Location.of(matches[-1].last),
        ops=tuple(str(match.op) for match in matches),
        shapes={name: tensor_text(node) for name, node in shapes.items()},
        merged=matches[-1].merged,
        node=node.name,
        replaced=replaced,
        nodes=nodes,
        anchor=matches[-1].last.name,
        reason=reason,
    )


def _steps(chain: Chain, reached: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The steps by which a chain was found, and of those that follow the ones it passed and the ones it did not."""
    read = [f"{_name(match)}: {step}" for match in chain.matches for step in steps_of(_name(match))]
    checks = ["the kernel computes this", "there is a place for it"]
    return (*read, *checks[:reached]), tuple(checks[reached:])


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _name(match: Match) -> str:
    return type(match.op).__name__.lower()
