# SPDX-License-Identifier: Apache-2.0
"""Names in a profiler's trace: each call of a kernel inside a range that says which place of the model it is for.

A range costs 0.15 µs even where nobody profiles, a tenth of a launch, so there is none then.  Generated code asks once a
graph whether torch's profiler runs what it ran at the last call (20 ns), and where that has changed, the call of every place
is exchanged or put back.

Private interfaces (``compat``): what Inductor names its own Triton launches with, and the flag by which it asks whether
somebody profiles.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.autograd import profiler

from helion_compile.compat import RecordFunction
from helion_compile.passes.ir.source_location import shown_path

__all__ = ["LOOK", "called_by", "follow", "follow_profiler", "in_range", "profiling"]

# The line of generated code, and the line it needs above.
LOOK = (
    "from helion_compile.runtime import profiler_ranges as helion_ranges; "
    "from torch.autograd import profiler as helion_profiler",
    "if helion_profiler._is_profiler_enabled is not helion_ranges.seen: helion_ranges.follow_profiler()",
)


class Place(Protocol):
    """A place in generated code that calls a kernel."""

    def use_ranges(self) -> None:
        """Called when ranges are switched on or off."""


_places: weakref.WeakSet[Any] = weakref.WeakSet()
_asked = 0  # `profiling` blocks under way
seen = False  # whether torch's profiler ran at the last look


@contextlib.contextmanager
def profiling() -> Iterator[None]:
    """Within it, launches of compiled models are NVTX ranges too, for Nsight, which no part of torch knows of::

        with helion_compile.profiling():
            model(input_ids)
        # "norm_quant model.layers.0.self_attn.q_proj (…/modeling_qwen3.py:244)"

    ``torch.profiler`` shows them without it.  Models need not be compiled anew.  A CUDA graph replays without Python, so
    that in ``mode="reduce-overhead"`` only its recording has ranges.
    """
    _switch(1)
    try:
        yield
    finally:
        _switch(-1)


def follow(place: Place) -> None:
    """Tell ``place`` whenever ranges are switched on or off."""
    _places.add(place)


def follow_profiler() -> None:
    """Switch ranges on where torch's profiler runs, and off where it does not."""
    global seen
    seen = profiler._is_profiler_enabled
    _tell()


def in_range(name: str, call: Callable[..., None]) -> Callable[..., None]:
    """``call`` inside a range called ``name``, if ranges are on."""
    if not (_asked or seen):
        return call
    nvtx = torch.cuda.nvtx if _asked and torch.cuda.is_available() else None

    def ranged(*values: Any) -> None:
        with RecordFunction(name):
            if nvtx is None:
                return call(*values)
            nvtx.range_push(name)
            try:
                return call(*values)
            finally:
                nvtx.range_pop()

    return ranged


def called_by(name: str, depth: int) -> RecordFunction:
    """A range for a call in eager code: "quant mine.py:7", the line ``depth`` frames above."""
    frame = sys._getframe(depth + 1)
    return RecordFunction(f"{name} {shown_path(frame.f_code.co_filename)}:{frame.f_lineno}")


def _switch(by: int) -> None:
    global _asked
    _asked += by
    _tell()


def _tell() -> None:
    for place in list(_places):
        place.use_ranges()
