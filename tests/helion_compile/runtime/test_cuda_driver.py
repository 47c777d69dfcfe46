# SPDX-License-Identifier: Apache-2.0
"""What is asked of the CUDA driver, against one that answers as told."""

import ctypes
from types import SimpleNamespace

import pytest

from helion_compile.runtime import cuda_driver, pdl

LOSSY = 917  # any error number


@pytest.fixture
def driver(monkeypatch):
    answers = SimpleNamespace(error_with_nodes=0)

    def cuStreamGetCaptureInfo_v2(stream, status, number, graph, nodes, count):
        if nodes is not None and answers.error_with_nodes:
            return answers.error_with_nodes
        number._obj.value = 7
        if nodes is not None:
            held = (ctypes.c_void_p * 2)(1024, 2048)
            answers.held = held
            nodes._obj.contents = ctypes.cast(held, ctypes.POINTER(ctypes.c_void_p)).contents
            count._obj.value = 2
        return 0

    monkeypatch.setattr(
        cuda_driver, "_load_driver", lambda: SimpleNamespace(cuStreamGetCaptureInfo_v2=cuStreamGetCaptureInfo_v2)
    )
    return answers


def test_dependencies_are_the_nodes_before(driver):
    assert cuda_driver.find_dependencies(5) == (7, (1024, 2048))


def test_where_the_driver_cannot_name_the_nodes_a_capture_goes_on_without_pdl(driver, monkeypatch):
    monkeypatch.setattr(pdl, "_last", {})
    pdl.note_pdl_kernel(5)
    assert pdl.follows_pdl_kernel(5)
    driver.error_with_nodes = LOSSY
    assert cuda_driver.find_dependencies(5) is None
    assert cuda_driver.find_capture(5) == 7, "its number alone can always be told"
    assert not pdl.follows_pdl_kernel(5)
    pdl.note_pdl_kernel(5)
    driver.error_with_nodes = 0
    assert not pdl.follows_pdl_kernel(5), "what was not told is no predecessor"
