# SPDX-License-Identifier: Apache-2.0
"""What long work is doing, on a terminal while it does it; nothing where stderr is no terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

__all__ = ["show_phase"]


@contextlib.contextmanager
def show_phase(doing: str) -> Iterator[None]:
    """Within it, ``doing`` stands on stderr with a sign of life; one at a time."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{doing} …"):
        yield
