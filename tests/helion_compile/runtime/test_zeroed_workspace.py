# SPDX-License-Identifier: Apache-2.0
"""Memory that stays zero: who shares a block; blocks are CPU tensors here."""

import pytest
import torch

from helion_compile.runtime import record, zeroed_workspace
from helion_compile.runtime.triton_launch import LaunchSource


@pytest.fixture
def captures(monkeypatch):
    """Streams that are being captured, by number of the capture."""
    found, held = {}, []

    def make(size):
        held.append(torch.zeros(size, dtype=torch.uint8))
        return held[-1].data_ptr()

    monkeypatch.setattr(zeroed_workspace, "_make", make)
    monkeypatch.setattr(zeroed_workspace, "_is_capturing", lambda: bool(found))
    monkeypatch.setattr(zeroed_workspace, "find_capture", found.get)
    monkeypatch.setattr(zeroed_workspace, "_blocks", {})
    return found


def test_launches_on_one_stream_share_a_block_and_streams_do_not(captures):
    first = zeroed_workspace.get_zeros(0, 1000, 1)
    assert zeroed_workspace.get_zeros(0, 500, 1) == zeroed_workspace.get_zeros(0, zeroed_workspace.SMALLEST, 1) == first
    assert zeroed_workspace.get_zeros(0, 1000, 2) != first
    assert zeroed_workspace.get_zeros(1, 1000, 1) != first


def test_a_block_that_is_too_small_is_replaced(captures):
    first = zeroed_workspace.get_zeros(0, 100, 1)
    wanted = 3 * zeroed_workspace.SMALLEST + 1
    assert zeroed_workspace.get_zeros(0, wanted, 1) != first
    address, held = zeroed_workspace._blocks[0, 1, None]
    assert held >= wanted and zeroed_workspace.get_zeros(0, held, 1) == address == zeroed_workspace.get_zeros(0, 100, 1)


def test_each_capture_has_blocks_of_its_own(captures):
    eager = zeroed_workspace.get_zeros(0, 1000, 1)
    addresses = set()
    for number in (7, 8):
        captures[1] = captures[2] = number
        for stream in (1, 2):
            address = zeroed_workspace.get_zeros(0, 1000, stream)
            assert zeroed_workspace.get_zeros(0, 800, stream) == address
            addresses.add(address)
    assert len(addresses) == 4 and eager not in addresses
    captures.clear()
    assert zeroed_workspace.get_zeros(0, 1000, 1) == eager


class Kernel:
    """What a plan needs of ``triton.JITFunction``."""

    __name__ = "kernel"
    arg_names = ("x", "words", "tickets", "out")

    def run(self, *args, grid, warmup, **options):
        return self


def host(x, _launcher=None):
    words = torch.zeros([3], dtype=torch.int32)
    tickets = torch.zeros([5], dtype=torch.int32)
    out = torch.empty(2)
    _launcher(Kernel(), (1,), x, words, tickets, out)
    return out


@pytest.fixture
def launched(monkeypatch, captures):
    """Addresses that the kernel was launched with."""
    found = []

    def source(number, compiled, grid, values, pointers):
        return LaunchSource((f"run({', '.join(f'a{index} + {add}' for _, index, add in pointers)})",), {"run": run})

    def run(*addresses):
        found.append(addresses)

    monkeypatch.setattr(record, "launch_source", source)
    monkeypatch.setattr(record, "current_stream", lambda device: 3)
    monkeypatch.setattr(record, "allocate", lambda buffer: torch.empty(buffer.shape, dtype=buffer.dtype))
    return found


def test_a_plan_finds_its_zeros_in_the_block(launched):
    x, out = torch.ones(4), torch.empty(2)
    made = record.record_plan(host, (x,), zeroed_workspace=True)
    made.launch(x.data_ptr(), out.data_ptr())
    block, _ = zeroed_workspace._blocks[None, 3, None]
    assert launched == [(x.data_ptr(), block, block + zeroed_workspace.ALIGNMENT, out.data_ptr())]


def test_a_kernel_that_does_not_say_so_gets_no_plan(launched):
    with pytest.raises(record.NotReplayable, match="calls aten.zeros"):
        record.record_plan(host, (torch.ones(4),))
