# SPDX-License-Identifier: Apache-2.0
"""Where the time of a step goes on the GPU: in its kernels, in copies around them, and in between."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

__all__ = ["Span", "account", "busy", "spans_of"]


class Span(NamedTuple):
    """A kernel, a copy or a memset on the GPU; times in µs."""

    name: str
    start: float
    end: float

    @property
    def kind(self) -> str:
        lower = self.name.lower()
        return "copies" if lower.startswith("memcpy") else "memsets" if lower.startswith("memset") else "kernels"


def spans_of(events: Iterable[Any]) -> list[Span]:
    """The spans among ``torch.profiler.profile().events()``."""
    on_gpu = [event for event in events if event.device_type.name == "CUDA"]
    return [Span(event.name, event.time_range.start, event.time_range.end) for event in on_gpu]


def busy(spans: Iterable[Span]) -> float:
    """µs in which anything ran; a sum would count twice what a kernel waits for the one before (PDL)."""
    total, end = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(0.0, span.end - max(span.start, end))
        end = max(end, span.end)
    return total


def account(spans: Sequence[Span], steps: int) -> dict[str, float]:
    """What one of ``steps`` equal steps consists of, one after another on one stream: numbers, and medians in µs.

    The times between two nodes are told apart from those between two steps, in which a CUDA graph is launched.  Where a
    kernel begins before the one in front of it ends (PDL), there is no idle time but an overlap.

    Raises:
        ValueError: the spans are not those of so many equal steps.
    """
    if not spans or len(spans) % steps:
        raise ValueError(f"{len(spans)} spans are not {steps} equal steps: something else ran on the GPU meanwhile.")
    length = len(spans) // steps
    ordered = sorted(spans, key=lambda span: span.start)
    each = [ordered[at : at + length] for at in range(0, len(ordered), length)]
    between = [[b.start - a.end for a, b in itertools.pairwise(step)] for step in each]
    flat = [gap for gaps in between for gap in gaps]
    rows: dict[str, float] = {kind: sum(span.kind == kind for span in each[0]) for kind in ("kernels", "copies", "memsets")}
    return rows | {
        "in kernels": _middle(sum(span.end - span.start for span in step if span.kind == "kernels") for step in each),
        "in copies and memsets": _middle(sum(s.end - s.start for s in step if s.kind != "kernels") for step in each),
        "idle between two nodes": _middle(flat or [0.0]),
        "idle between its nodes together": _middle(sum(max(gap, 0.0) for gap in gaps) for gaps in between),
        "overlap of its nodes together": _middle(sum(max(-gap, 0.0) for gap in gaps) for gaps in between),
        "idle before the next step": _middle([b[0].start - a[-1].end for a, b in itertools.pairwise(each)] or [0.0]),
    }


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)
