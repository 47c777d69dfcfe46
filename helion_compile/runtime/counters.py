# SPDX-License-Identifier: Apache-2.0
"""What was compiled so far in this process: after a warm-up these numbers stand still, which a server can check."""

from __future__ import annotations

from dataclasses import astuple, dataclass

__all__ = ["Counters", "counters"]


@dataclass
class Counters:
    """
    Attributes:
        traced: configs for which Helion traced a kernel and wrote its Triton code.
        loaded: binaries that Triton compiled, or took from its cache, and loaded onto a GPU.
        planned: launch plans made; about a millisecond each when nothing had to be traced or loaded.
        unplanned: calls whose host function no plan can explain; they go through Helion's own launch.
    """

    traced: int = 0
    loaded: int = 0
    planned: int = 0
    unplanned: int = 0

    @property
    def compiled(self) -> int:
        """Grows whenever a call had to wait for a compiler: the number to watch."""
        return self.traced + self.loaded

    def copy(self) -> Counters:
        return Counters(*astuple(self))


counters = Counters()
