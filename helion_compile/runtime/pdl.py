# SPDX-License-Identifier: Apache-2.0
"""Programmatic dependent launch (PDL): which launches may begin while the kernel before them still runs.

A kernel that waits for the one before it (``kernels/device/pdl.py``) may be put on the GPU early.  Behind another kernel that
lets its dependents launch, this saves half a microsecond.  Behind one that does not, it *costs* half a microsecond: on an
H200 (torch 2.11, triton 3.6) a quantiser between two library GEMMs took 1.6 us a call with it and 1.1 us without.  So a
launch asks for it only where the node before it in the captured graph is such a kernel of ours.

Only a CUDA graph replays fast enough for it to matter, so eager launches never ask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from helion_compile.runtime.cuda_driver import find_dependencies

__all__ = ["follows_pdl_kernel", "note_pdl_kernel", "waits_for_previous", "without_pdl"]


class _Use:
    """Whether captured launches may use PDL at all."""

    wanted = True


# stream -> the capture and the graph node of the last kernel there that lets its dependents launch
_last: dict[int, tuple[int, tuple[int, ...]]] = {}


@contextlib.contextmanager
def without_pdl() -> Iterator[None]:
    """CUDA graphs captured inside run one kernel after the other, so that the time of each can be told."""
    before, _Use.wanted = _Use.wanted, False
    try:
        yield
    finally:
        _Use.wanted = before


def waits_for_previous(kernel: Any) -> bool:
    """Whether a Triton kernel waits for the kernel before, and so may be launched early on the current GPU."""
    if "gdc_wait()" not in getattr(kernel, "src", ""):
        return False
    from helion_compile.compat import triton_driver

    arch = triton_driver.active.get_current_target().arch
    return isinstance(arch, int) and arch >= 90


def follows_pdl_kernel(stream: int) -> bool:
    """Whether the next node captured on ``stream`` depends on a kernel noted by :func:`note_pdl_kernel`, and nothing else."""
    last = _last.get(stream)
    return _Use.wanted and last is not None and find_dependencies(stream) == last


def note_pdl_kernel(stream: int) -> None:
    """Note that the last node captured on ``stream`` is a kernel that lets its dependents launch."""
    found = find_dependencies(stream)
    if found is None:
        _last.pop(stream, None)
    else:
        _last[stream] = found
