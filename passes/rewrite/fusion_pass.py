# SPDX-License-Identifier: Apache-2.0
"""The pass that rewrites graphs, as Inductor takes passes: options, failures, and what is recorded of each graph."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import Graph

from helion_compile.passes.account.op_counts import inventory
from helion_compile.passes.account.records import GraphRecord
from helion_compile.passes.account.refusal import Refusal
from helion_compile.passes.compat import CustomGraphPass
from helion_compile.passes.digest import digest_sources
from helion_compile.passes.failure_log import first_line, log_failures
from helion_compile.passes.ir.dynamic_sizes import symbols_of
from helion_compile.passes.ir.graph_listing import Cost, Lister
from helion_compile.passes.ir.inductor_estimate import estimate_inductor
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.match.chain import LINKS
from helion_compile.passes.rewrite.edits import Edits
from helion_compile.passes.rewrite.fusion import Fusion
from helion_compile.passes.rewrite.rewriting import Rewriting
from helion_compile.passes.semantics import Matmul, SemanticOp

__all__ = ["FusionError", "FusionPass"]

log = logging.getLogger(__name__)


class FusionError(RuntimeError):
    """The pass failed on a graph.  ``site`` is the source location at which, None when it was at none in particular."""

    def __init__(self, message: str, site: Location | None):
        super().__init__(message)
        self.site = site


class FusionPass(CustomGraphPass):
    """Replaces chains of semantic ops by what ``fusions`` build for them.

    For ``torch._inductor.config.post_grad_custom_pre_pass``.  Fusions are tried in the order given; a match is part of
    one replacement at most.  A graph on which the pass fails stays as it was, with one warning and the reason in
    ``GraphRecord.error``.

    Args:
        fusions: what becomes what, the preferred first.
        strict: raise ``FusionError`` where the pass fails, instead of leaving the graph alone.
        disable: names of fusions to leave out.
        only: names of the fusions to use; None for all.
        keep: ops that are reported as kept, not as unfused, when no fusion takes them.
        keep_code: put the lines of the graph before and after into the record, of which its code is printed.
        keep_originals: put what each replacement stands for into the record, to be run and compared.
        reject: chains to leave alone, by the fusion's name and ``Site.anchor``, each with the refusal.
        identity: a string that differs when what the fusions build differs: versions of kernels, config tables.
        on_record: called with the GraphRecord of every graph.
        on_graph: called with the graph and its GraphRecord, before Inductor goes on with it.
        log: told one line a graph at INFO, every site and refusal at DEBUG, and failures as warnings.

    Raises:
        ValueError: a name in ``disable`` or ``only`` is no fusion's name, two fusions have one name, or a chain has a pair of
            ops that nothing links.
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
        reject: Mapping[tuple[str, str], Refusal] = MappingProxyType({}),
        identity: str = "",
        on_record: Callable[[GraphRecord], None] | None = None,
        on_graph: Callable[[Graph, GraphRecord], None] | None = None,
        log: logging.Logger = log,
    ):
        fusions = list(fusions) if isinstance(fusions, Iterable) else [fusions]
        if other := [fusion for fusion in fusions if not isinstance(fusion, Fusion)]:
            raise TypeError(f"FusionPass takes a list of Fusions, found {other[0]!r:.80}")
        _check_options(locals())
        names = [fusion.name for fusion in fusions]
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"fusions need names of their own, found more than one called {', '.join(repeated)}")
        for fusion in fusions:
            _check_links(fusion)
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
        self.left_out = tuple(name for name in names if name not in [fusion.name for fusion in self.fusions])
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
        if not isinstance(graph, Graph):
            raise TypeError(
                f"FusionPass is called with a torch.fx.Graph, such as module.graph, not with a {type(graph).__name__}"
            )
        started = time.perf_counter()
        record = GraphRecord(nodes=len(graph.nodes), left_out=self.left_out)
        lister = Lister() if self.keep_code else None
        written = self._record_before(graph, record, lister)
        changed, failure = False, None
        edits = rewriting = None
        try:
            edits = Edits(graph)
            rewriting = Rewriting(
                graph, edits, self.fusions, keep=self.keep, reject=self.reject, originals=self.keep_originals
            )
            with _paused_collector():
                rewriting.run(record)
            changed = rewriting.changed
        except Exception as error:
            failure = self._failure(error, rewriting)
            if edits is not None:
                self._put_back(edits, failure)
            kept = ("nodes", "left_out", "inventory", "symbols", "lines_before", "inductor_before")
            record = GraphRecord(**{name: getattr(record, name) for name in kept}, error=str(failure))
        record.lines_after, record.inductor_after = record.lines_before, record.inductor_before
        if changed and written and lister:
            with log_failures(self.log, "writing the rewritten graph down"):
                record.lines_after = lister(graph)
                record.inductor_after = self._estimate(graph)
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
        ``check`` do is covered by ``identity`` alone.
        """
        names = [fusion.name for fusion in self.fusions]
        options = repr((torch.__version__, names, self.strict, sorted(self.reject), self.identity))
        return hashlib.sha256(f"{digest_sources(Path(__file__).parents[1])}{options}".encode()).hexdigest()

    def __deepcopy__(self, memo: dict) -> FusionPass:
        # Inductor deep-copies its config; the copy is still the pass whose records the caller reads.
        return self

    def __getstate__(self) -> dict:
        return self.__dict__ | {"records": [], "on_record": None, "on_graph": None}

    def _record_before(self, graph: Graph, record: GraphRecord, lister: Lister | None) -> bool:
        """What is told of the graph as it came; False where that failed, which is logged."""
        with log_failures(self.log, "taking stock of a graph"):
            record.inventory, record.symbols = inventory(graph), symbols_of(graph)
            record.lines_before = lister(graph) if lister else ()
            record.inductor_before = self._estimate(graph)
            return True
        return False

    def _failure(self, error: Exception, rewriting: Rewriting | None) -> FusionError:
        doing, location = (rewriting.doing, rewriting.location) if rewriting else ("before it began", None)
        failure = FusionError(
            f"the fusion pass failed {doing}: {type(error).__name__}: {first_line(error)}"
            + ("" if self.strict else "; the graph is compiled without fusions"),
            location,
        )
        failure.__cause__ = error
        return failure

    def _put_back(self, edits: Edits, failure: FusionError) -> None:
        """Take the edits back; a graph that is half rewritten is not compiled, whatever ``strict`` says."""
        if not edits.pending:
            return
        try:
            edits.undo()
        except Exception as error:
            raise FusionError(
                f"the fusion pass failed, and so did putting the graph back as it was: {type(error).__name__}: "
                f"{first_line(error)}. Compile with backend='inductor', and report it; the first failure: {failure}",
                failure.site,
            ) from failure

    def _estimate(self, graph: Graph) -> Cost:
        return estimate_inductor(graph) if self.keep_code else Cost()

    def _report(self, graph: Graph, record: GraphRecord) -> None:
        self.records.append(record)
        with log_failures(self.log, "logging what was fused"):
            if not record.error:
                self.log.info("%s", record.summary())
            if self.log.isEnabledFor(logging.DEBUG):
                for line in record.details():
                    self.log.debug("%s", line)
        for name, callback, arguments in (
            ("on_record", self.on_record, (record,)),
            ("on_graph", self.on_graph, (graph, record)),
        ):
            if callback:
                with log_failures(self.log, name):
                    callback(*arguments)


@contextlib.contextmanager
def _paused_collector() -> Iterator[None]:
    """Within it Python looks for no garbage in circles: in a large graph that took a third of the pass, and found none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_options(given: Mapping[str, Any]) -> None:
    flags = ("strict", "keep_code", "keep_originals")
    wanted: dict[str, tuple[bool, str]] = {name: (isinstance(given[name], bool), "True or False") for name in flags}
    for name in ("on_record", "on_graph"):
        wanted[name] = given[name] is None or callable(given[name]), "a function, or None"
    keep = given["keep"] if isinstance(given["keep"], Collection) else ("",)
    ops = all(isinstance(op, type) and issubclass(op, SemanticOp) for op in keep)
    wanted["keep"] = ops, "a collection of semantic ops, as (Matmul,)"
    wanted["reject"] = isinstance(given["reject"], Mapping), "a dict of refusals"
    wanted["identity"] = isinstance(given["identity"], str), "a text"
    wanted["log"] = isinstance(given["log"], (logging.Logger, logging.LoggerAdapter)), "a logger"
    for name, optional in (("disable", False), ("only", True)):
        collection = isinstance(given[name], Collection) or (optional and given[name] is None)
        wanted[name] = collection, "a collection of names"
    for name, (right, expected) in wanted.items():
        if not right:
            raise TypeError(f"FusionPass({name}={given[name]!r:.80}): expected {expected}")


def _check_links(fusion: Fusion) -> None:
    for producer, consumer in itertools.pairwise(fusion.chain):
        if not any(issubclass(a, producer) and issubclass(b, consumer) for a, b in LINKS):
            linked = ", ".join(f"{a.__name__} -> {b.__name__}" for a, b in LINKS)
            raise ValueError(
                f"fusion {fusion.name!r} has a chain with {producer.__name__} -> {consumer.__name__}, which would never be "
                f"found: passes.match.chain.LINKS links {linked}; add there which output of {producer.__name__} is which "
                f"input of {consumer.__name__}"
            )
