"""Memory that is zero before and after each launch: what kernels with ``restores_zeros`` get for ``torch.zeros``.

Launches on one stream follow one another, so they share one block; streams have a block each.  A launch in a CUDA graph may
run beside anything, but not beside other launches of the same capture on the same stream, so each capture has blocks of its
own, which stay for good: a graph does not say when it ends.  They are cut from a reserve that was zeroed before, since
what zeroes memory during a capture would become part of the graph.

Private interfaces: ``torch._C._cuda_isCurrentStreamCapturing``; the driver's ``cuStreamGetCaptureInfo_v2``.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import Any

import torch

__all__ = ["ALIGNMENT", "address_of", "prepare"]

ALIGNMENT = 512  # of each block, as of torch's own memory
RESERVE = 8 << 20  # bytes that a capture finds at least, and as many blocks of the largest size asked for so far
_BLOCKS_IN_RESERVE = 4

_lock = threading.Lock()
_blocks: dict[tuple[int, int, int | None], torch.Tensor] = {}  # by device, stream and capture
_reserves: dict[int, list[torch.Tensor]] = {}
_largest: dict[int, int] = {}
_is_capturing = getattr(torch._C, "_cuda_isCurrentStreamCapturing", lambda: False)


def prepare(device: int, size: int) -> None:
    """Called before anything asks for ``size`` bytes, and not during a capture: what a capture may need is zeroed now."""
    with _lock:
        _largest[device] = max(size, _largest.get(device, 0))
        wanted = max(RESERVE, _BLOCKS_IN_RESERVE * _largest[device])
        reserve = _reserves.setdefault(device, [])
        if not reserve or reserve[-1].numel() < wanted:
            reserve.append(_make(device, wanted))
            torch.cuda.synchronize(device)  # any stream may use it next


def address_of(device: int, size: int, stream: int) -> int:
    """Where ``size`` bytes of zeros lie for a launch on ``stream``, the current one; the launch has to leave zeros."""
    capture = _capture_of(stream) if _is_capturing() else None
    block = _blocks.get((device, stream, capture))
    if block is None or block.numel() < size:
        with _lock:
            block = _blocks[device, stream, capture] = _cut(device, size) if capture is not None else _fresh(device, size)
    return block.data_ptr()


def _fresh(device: int, size: int) -> torch.Tensor:
    # Of the largest size, so that one block soon serves the stream.
    return _make(device, max(size, _largest.get(device, 0)))


def _make(device: int, size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8, device=torch.device("cuda", device))


def _cut(device: int, size: int) -> torch.Tensor:
    size = -(-max(size, _largest.get(device, 0)) // ALIGNMENT) * ALIGNMENT
    for index, block in enumerate(reserve := _reserves.get(device, [])):
        if block.numel() >= size:
            reserve[index] = block[size:]
            return block[:size]
    return _fresh(device, size)  # zeroed in every replay: slower by that, and right


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _capture_of(stream: int) -> int:
    """The driver's number of the capture that ``stream`` takes part in."""
    status, number = ctypes.c_int(), ctypes.c_ulonglong()
    error = _driver().cuStreamGetCaptureInfo_v2(
        ctypes.c_void_p(stream), ctypes.byref(status), ctypes.byref(number), None, None, None
    )
    if error:
        raise RuntimeError(f"the CUDA driver does not say which capture a stream takes part in (error {error})")
    return number.value
