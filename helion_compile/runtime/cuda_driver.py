# SPDX-License-Identifier: Apache-2.0
"""Calls of the CUDA driver that torch has no function for, through ctypes."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

__all__ = ["call_driver", "find_capture", "find_dependencies"]


def call_driver(name: str, *arguments: Any, purpose: str) -> None:
    """Call the driver's function ``name``.

    Args:
        purpose: what it is asked for, for the error's sentence.

    Raises:
        RuntimeError: the driver returned an error.
    """
    if error := getattr(_load_driver(), name)(*arguments):
        raise RuntimeError(f"the CUDA driver's {name} failed with error {error}; {purpose}")


def find_capture(stream: int) -> int:
    """The driver's number of the capture that ``stream`` takes part in; 0 where there is none."""
    status, number = ctypes.c_int(), ctypes.c_uint64()
    places = (ctypes.byref(status), ctypes.byref(number), None, None, None)
    call_driver("cuStreamGetCaptureInfo_v2", ctypes.c_void_p(stream), *places, purpose="the capture of a stream was asked for")
    return number.value


def find_dependencies(stream: int) -> tuple[int, tuple[int, ...]] | None:
    """The capture that ``stream`` takes part in, and the addresses of the graph nodes that its next node will depend on.

    Returns:
        None where the driver does not say: it refuses where one of the dependencies waits for an event within a kernel,
        which this call cannot name.
    """
    status, number, count = ctypes.c_int(), ctypes.c_uint64(), ctypes.c_size_t()
    nodes = ctypes.POINTER(ctypes.c_void_p)()
    places = (ctypes.byref(status), ctypes.byref(number), None, ctypes.byref(nodes), ctypes.byref(count))
    if _load_driver().cuStreamGetCaptureInfo_v2(ctypes.c_void_p(stream), *places):
        return None
    return number.value, tuple(nodes[index] for index in range(count.value))


@functools.cache
def _load_driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")
