# SPDX-License-Identifier: Apache-2.0
"""Memory that is zero before and after each launch: what kernels with ``zeroed_workspace`` get for ``torch.zeros``.

Launches on one stream follow one another, so they share one block; streams have a block each.  A launch in a CUDA graph may
run beside anything, but not beside other launches of the same capture on the same stream, so each capture has blocks of its
own.  Blocks stay for good: a graph does not say when it ends, and one that was outgrown may be in use still.

The memory comes from the driver.  torch's allocator would take it from the pool of the capture at hand, whose owner counts
what lives there (Inductor's CUDA graph trees raise an error), and would zero it in each replay.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from helion_compile import compat
from helion_compile.runtime.cuda_driver import call_driver, find_capture

__all__ = ["ALIGNMENT", "get_zeros"]

ALIGNMENT = 256  # of what the driver allocates
SMALLEST = 1 << 20  # bytes of a block, so that one soon serves its stream

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: this thread may allocate while a stream is captured
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING

_lock = threading.Lock()
_blocks: dict[tuple[int, int, int | None], tuple[int, int]] = {}  # device, stream and capture -> address and bytes
_is_capturing = compat.find_name("is_stream_capturing", lambda: False)


def get_zeros(device: int, size: int, stream: int) -> int:
    """Where ``size`` bytes of zeros lie for a launch on ``stream``, the current one; the launch has to leave zeros.

    Args:
        device: index of the current device.
    """
    key = (device, stream, find_capture(stream) if _is_capturing() else None)
    address, held = _blocks.get(key, (0, 0))
    if held < size:
        with _lock:
            held = max(SMALLEST, 1 << (size - 1).bit_length())
            address = _make(held)
            _blocks[key] = address, held
    return address


def _make(size: int) -> int:
    """Address of ``size`` bytes of zeros on the current device, also while a stream is captured."""
    mode = ctypes.c_int(_RELAXED)
    _ask("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    try:
        address, stream = ctypes.c_uint64(), ctypes.c_void_p()
        _ask("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        # A stream of its own: on a captured one this would be done in each replay.
        _ask("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        _ask("cuMemsetD8Async", address, ctypes.c_ubyte(0), ctypes.c_size_t(size), stream)
        _ask("cuStreamSynchronize", stream)
        _ask("cuStreamDestroy_v2", stream)
    finally:
        _ask("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    return address.value


def _ask(name: str, *arguments: Any) -> None:
    call_driver(name, *arguments, purpose="memory for partial sums was asked for")
