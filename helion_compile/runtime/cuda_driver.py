"""Calls of the CUDA driver that torch has no function for, through ctypes."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

__all__ = ["call_driver", "find_capture"]


def call_driver(name: str, *arguments: Any, purpose: str) -> None:
    """Call the driver's function ``name``.

    Args:
        purpose: what it is asked for, for the error's sentence.

    Raises:
        RuntimeError: the driver returned an error.
    """
    if error := getattr(_load_driver(), name)(*arguments):
        raise RuntimeError(f"the CUDA driver's {name} failed with error {error}; {purpose}")


def find_capture(stream: int) -> tuple[int, tuple[int, ...]]:
    """The capture that ``stream`` takes part in, and the graph nodes that its next node will depend on.

    Returns:
        The driver's number of the capture, and the addresses of the nodes; 0 and nothing where there is no capture.
    """
    status, number, count = ctypes.c_int(), ctypes.c_uint64(), ctypes.c_size_t()
    nodes = ctypes.POINTER(ctypes.c_void_p)()
    places = (ctypes.byref(status), ctypes.byref(number), None, ctypes.byref(nodes), ctypes.byref(count))
    call_driver("cuStreamGetCaptureInfo_v2", ctypes.c_void_p(stream), *places, purpose="the capture of a stream was asked for")
    return number.value, tuple(nodes[index] for index in range(count.value))


@functools.cache
def _load_driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")
