# SPDX-License-Identifier: Apache-2.0
"""What happens alike in many layers is told once, in the text as on the page, with the range of their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, TypeVar

from helion_compile.passes.ir.source_location import Location

if TYPE_CHECKING:
    from helion_compile.passes.account.records import Site, Unfused
    from helion_compile.passes.account.refusal import Refusal
    from helion_compile.reports.model import FusedSite, GraphReport, KernelCall, Layer

__all__ = [
    "group_called",
    "group_fused",
    "group_kept",
    "group_layers",
    "group_refusals",
    "group_unfused",
    "name_modules",
]

T = TypeVar("T")

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")  # a layer's, in a module path


def group_fused(graph: GraphReport) -> list[list[FusedSite]]:
    def key(fused: FusedSite) -> Hashable:
        site: Site = fused.site
        shapes = tuple(site.shapes.items())
        return fused.kernel, str(fused.config), site.ops, shapes, site.merged, fused.before, *_place(site.location)

    return _alike(graph.fused, key)


def group_called(graph: GraphReport) -> list[list[KernelCall]]:
    return _alike(graph.called, lambda c: (c.kernel, str(c.config), tuple(c.shapes.items()), *_place(c.location)))


def group_refusals(graph: GraphReport) -> list[list[Refusal]]:
    return _alike(graph.record.refusals, lambda refusal: (refusal.group, *_place(refusal.location)))


def group_kept(graph: GraphReport) -> list[list[Site]]:
    return _alike(graph.record.kept, lambda site: (site.fusion, site.ops, site.refusal and site.refusal.group))


def group_unfused(graph: GraphReport) -> list[list[Unfused]]:
    return _alike(graph.record.unfused, lambda each: (each.op, each.refusal.group, *_place(each.location)))


def group_layers(layers: Iterable[Layer]) -> list[list[Layer]]:
    return _alike(layers, lambda layer: (_NUMBER.sub("*", layer.name), layer.before, layer.after))


def name_modules(paths: Iterable[str]) -> str:
    """ "model.layers.0-35.mlp (36 times)"; of paths that differ in more than numbers, the first."""
    paths = list(paths)
    if len({_NUMBER.sub("*", path) for path in paths}) > 1:
        return f"{paths[0] or 'the function itself'} and {len(paths) - 1} more places"
    if not paths[0]:
        path = "the function itself"
    else:
        ranges = map(_ranges, zip(*map(_NUMBER.findall, paths), strict=True))
        path = _NUMBER.sub(lambda _: next(ranges), paths[0])
    return path if len(paths) == 1 else f"{path} ({len(paths)} times)"


def _place(location: Location) -> tuple[str, str]:
    return _NUMBER.sub("*", location.module), location.source


def _alike(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """The items in groups of equal ``key``, each where its first one stands."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _ranges(numbers: Iterable[str]) -> str:
    """ "0-3,7"."""
    runs: list[list[int]] = []
    for number in sorted(set(map(int, numbers))):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)
