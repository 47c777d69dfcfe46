"""Dependent launch: a kernel begins while the one before it ends, and waits before it reads what that one writes.

Programmatic dependent launch (compute capability 9.0 and later).  Both are no operation in a kernel launched without it.
"""

from __future__ import annotations

import helion.language as hl

__all__ = ["let_next_begin", "wait_for_previous"]


def let_next_begin() -> None:
    """In a kernel: allow the next kernel to be put on the GPU; what it reads it waits for until this one has ended."""
    hl.inline_triton("tl.extra.cuda.gdc_launch_dependents()", args=(), output_like=None)


def wait_for_previous() -> None:
    """In a kernel: wait until the kernel before has ended and its writes can be seen; stands before the first access."""
    hl.inline_triton("tl.extra.cuda.gdc_wait()", args=(), output_like=None)
