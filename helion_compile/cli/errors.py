# SPDX-License-Identifier: Apache-2.0
"""What a command says when it cannot do what it was asked for."""

from __future__ import annotations

import textwrap

__all__ = ["CommandError", "in_a_line"]


class CommandError(ValueError):
    """The command was asked for something that it cannot do, in one sentence."""


def in_a_line(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …").rstrip(".")
