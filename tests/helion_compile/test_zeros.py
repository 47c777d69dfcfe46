"""Memory that stays zero: who shares a block; blocks are CPU tensors here."""

import pytest
import torch

from helion_compile import plan, zeros
from helion_compile.launcher import LaunchSource


@pytest.fixture
def captures(monkeypatch):
    """Streams that are being captured, by number of the capture."""
    found, held = {}, []

    def make(size):
        held.append(torch.zeros(size, dtype=torch.uint8))
        return held[-1].data_ptr()

    monkeypatch.setattr(zeros, "_make", make)
    monkeypatch.setattr(zeros, "_is_capturing", lambda: bool(found))
    monkeypatch.setattr(zeros, "_capture_of", found.get)
    monkeypatch.setattr(zeros, "_blocks", {})
    return found


def test_launches_on_one_stream_share_a_block_and_streams_do_not(captures):
    first = zeros.address_of(0, 1000, 1)
    assert zeros.address_of(0, 500, 1) == zeros.address_of(0, zeros.SMALLEST, 1) == first
    assert zeros.address_of(0, 1000, 2) != first
    assert zeros.address_of(1, 1000, 1) != first


def test_a_block_that_is_too_small_is_replaced(captures):
    first = zeros.address_of(0, 100, 1)
    wanted = 3 * zeros.SMALLEST + 1
    assert zeros.address_of(0, wanted, 1) != first
    address, held = zeros._blocks[0, 1, None]
    assert held >= wanted and zeros.address_of(0, held, 1) == address == zeros.address_of(0, 100, 1)


def test_each_capture_has_blocks_of_its_own(captures):
    eager = zeros.address_of(0, 1000, 1)
    addresses = set()
    for number in (7, 8):
        captures[1] = captures[2] = number
        for stream in (1, 2):
            address = zeros.address_of(0, 1000, stream)
            assert zeros.address_of(0, 800, stream) == address
            addresses.add(address)
    assert len(addresses) == 4 and eager not in addresses
    captures.clear()
    assert zeros.address_of(0, 1000, 1) == eager


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

    monkeypatch.setattr(plan, "launch_source", source)
    monkeypatch.setattr(plan, "current_stream", lambda device: 3)
    monkeypatch.setattr(plan, "allocate", lambda buffer: torch.empty(buffer.shape, dtype=buffer.dtype))
    return found


def test_a_plan_finds_its_zeros_in_the_block(launched):
    x, out = torch.ones(4), torch.empty(2)
    made = plan.record(host, (x,), restores_zeros=True)
    made.launch(x.data_ptr(), out.data_ptr())
    block, _ = zeros._blocks[None, 3, None]
    assert launched == [(x.data_ptr(), block, block + zeros.ALIGNMENT, out.data_ptr())]


def test_a_kernel_that_does_not_say_so_gets_no_plan(launched):
    with pytest.raises(plan.Unexplained, match="calls aten.zeros"):
        plan.record(host, (torch.ones(4),))
