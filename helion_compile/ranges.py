"""Names in a profiler's trace: each launch of a fused kernel inside a range that says which place of the model it is for.

A range costs 0.15 µs even where nobody profiles, a tenth of a launch, so there is none unless it is asked for: ``profiling``
exchanges the call of every place in generated code, and puts it back.

Private interfaces: ``_RecordFunctionFast``, with which Inductor names its own Triton launches; tested with torch 2.11, 2.13
and 2.15.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch._C._profiler import _RecordFunctionFast

__all__ = ["follow", "in_range", "profiling"]


class Place(Protocol):
    """A place in generated code that calls a kernel."""

    def use_ranges(self) -> None:
        """Called when ranges are switched on or off."""


_places: weakref.WeakSet[Any] = weakref.WeakSet()
_depth = 0


@contextlib.contextmanager
def profiling() -> Iterator[None]:
    """Within it, launches of compiled models carry the module and source line that they are for::

        with helion_compile.profiling(), torch.profiler.profile() as profiler:
            model(input_ids)
        # "rms_norm_quant model.layers.0.self_attn.q_proj (…/modeling_qwen3.py:244)"

    For ``torch.profiler`` and, on a GPU, as NVTX ranges for Nsight.  Models need not be compiled anew.  A CUDA graph
    replays without Python, so that in ``mode="reduce-overhead"`` only its recording has ranges.
    """
    _switch(1)
    try:
        yield
    finally:
        _switch(-1)


def follow(place: Place) -> None:
    """Tell ``place`` whenever ranges are switched on or off."""
    _places.add(place)


def in_range(name: str, call: Callable[..., None]) -> Callable[..., None]:
    """``call`` inside a range called ``name``, if ranges are on."""
    if not _depth:
        return call
    nvtx = torch.cuda.nvtx if torch.cuda.is_available() else None

    def ranged(*values: Any) -> None:
        with _RecordFunctionFast(name):
            if nvtx is None:
                return call(*values)
            nvtx.range_push(name)
            try:
                return call(*values)
            finally:
                nvtx.range_pop()

    return ranged


def _switch(by: int) -> None:
    global _depth
    _depth += by
    for place in list(_places):
        place.use_ranges()
