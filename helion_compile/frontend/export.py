# SPDX-License-Identifier: Apache-2.0
"""``export``: a model as a package that runs without Python, and without this package.

Thin over torch's own: ``torch.export.export``, our pass in Inductor's hook, ``torch._inductor.aoti_compile_and_package``.
What cannot be in a package is found where the pass has rewritten the graph, before code is made and compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph

from helion_compile import compat
from helion_compile.compat import CustomGraphPass
from helion_compile.errors import PackageError, check_type
from helion_compile.frontend.inductor import HOOK, PassSequence
from helion_compile.frontend.on_graph import GraphReporter
from helion_compile.frontend.options import Options
from helion_compile.graph.inline_reference import InlineReferences
from helion_compile.graph.without_python import check_graph
from helion_compile.reports.report import Report

__all__ = ["PackageReport", "export"]


@dataclass(frozen=True)
class PackageReport(Report):
    """What happened to a model that was exported.

    Attributes:
        notes: a sentence for each kernel that is called with a range of sizes: what is taken for it.
    """

    notes: tuple[str, ...] = ()

    def print(self) -> None:
        """As :meth:`Report.print`, and the notes."""
        super().print()
        print("\n".join(self._list_notes()))

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self._list_notes()])

    def _list_notes(self) -> list[str]:
        return ["", "In the package:", *(f"  {note}" for note in self.notes)] if self.notes else []


def export(
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    path: str | os.PathLike[str],
    dynamic_shapes: Any = None,
    options: Mapping[str, Any] | None = None,
) -> PackageReport:
    """Write ``model`` to a package, with the kernels that ``backend="helion"`` would call; the report says which.

    ``torch._inductor.aoti_load_package(path)`` loads it, in any process with the same torch and kind of GPU, and so does
    ``torch::inductor::AOTIModelPackageLoader`` of C++.

    Args:
        model: in evaluation mode, on its device; or what ``torch.export.export`` made of it.
        args, kwargs: to call it with; their sizes are built in but for those that ``dynamic_shapes`` names.
        path: of the package, ending in ".pt2".
        dynamic_shapes: as for ``torch.export.export``.
        options: those of ``backend="helion"``, and Inductor's; see ``torch.compile(options=…)``.

    Raises:
        PackageError: a kernel that the graph calls cannot be launched without Python; nothing was compiled.
        ValueError, TypeError: an argument or option has a value it cannot have.
    """
    path = os.fspath(path)
    if not path.endswith(".pt2"):
        raise ValueError(f"export() was given path={path!r}; torch takes a package's path that ends in '.pt2'.")
    check_type("export(kwargs)", kwargs, (Mapping, type(None)), "a dict of keyword arguments, or None")
    ours, theirs = Options.split(options)
    if ours.verify:
        raise ValueError(
            "export() was given options={'verify': True}; helion_compile.explain(…, verify=True) verifies a model."
        )
    with torch.no_grad():
        program = _export(model, args, kwargs, dynamic_shapes)
        reporter = GraphReporter([], training=False)
        passes = [*_users_passes(theirs), ours.fusion_pass(on_graph=reporter)]
        if ours.numerics == "default":
            passes.append(InlineReferences())
        check = CheckGraph()
        theirs[HOOK] = PassSequence([*passes, check])
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        try:
            compat.aoti_compile_and_package(program, package_path=path, inductor_configs=theirs)
        except Exception:
            if check.refused is not None:  # Inductor makes an error of its own of what a pass raises
                raise check.refused from None
            raise
    return PackageReport(tuple(reporter.found), notes=tuple(check.notes))


def _export(
    model: torch.nn.Module | torch.export.ExportedProgram, args: Sequence[Any], kwargs: Mapping[str, Any] | None, shapes: Any
) -> torch.export.ExportedProgram:
    if isinstance(model, torch.export.ExportedProgram):
        if args or kwargs or shapes is not None:
            raise TypeError("export() was given an ExportedProgram and arguments; the program has its own: leave them out.")
        return model
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"export() takes a module or an ExportedProgram; got a {type(model).__name__}.")
    return torch.export.export(model, tuple(args), dict(kwargs or {}), dynamic_shapes=shapes)


def _users_passes(options: Mapping[str, Any]) -> list[Callable[[Graph], None]]:
    given = options.get(HOOK, getattr(compat.inductor_config, HOOK))
    return [] if given is None else [given]


class CheckGraph(CustomGraphPass):
    """Refuses a graph with a node that cannot be lowered without Python, before anything is compiled."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.refused: PackageError | None = None

    def __call__(self, graph: Graph) -> None:
        try:
            self.notes += check_graph(graph)
        except PackageError as error:
            self.refused = error
            raise

    def uuid(self) -> str:
        return "check_graph"
