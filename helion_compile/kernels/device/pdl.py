# SPDX-License-Identifier: Apache-2.0
"""Programmatic dependent launch (PDL): a kernel begins while the one before it ends, and waits before it reads its results.

Both are no operation in a kernel launched without it, and nothing at all before compute capability 9.0, whose assemblers do
not know the instructions.
"""

from __future__ import annotations

import helion.language as hl

__all__ = ["launch_dependents", "grid_dependency_wait"]

_LAUNCH_DEPENDENTS = """
if tl.target_info.cuda_capability_geq(9, 0):
    tl.extra.cuda.gdc_launch_dependents()
0
"""
_GRID_DEPENDENCY_WAIT = """
if tl.target_info.cuda_capability_geq(9, 0):
    tl.extra.cuda.gdc_wait()
0
"""


def launch_dependents() -> None:
    """In a kernel: allow the next kernel to be put on the GPU; what it reads it waits for until this one has ended."""
    hl.inline_triton(_LAUNCH_DEPENDENTS, args=(), output_like=None)


def grid_dependency_wait() -> None:
    """In a kernel: wait until the kernel before has ended and its writes can be seen; stands before the first access."""
    hl.inline_triton(_GRID_DEPENDENCY_WAIT, args=(), output_like=None)
