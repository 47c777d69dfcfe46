# SPDX-License-Identifier: Apache-2.0
"""Work that only tells something: where it fails, that is a line in the log, and what it tells of goes on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["first_line", "log_failures"]


@contextlib.contextmanager
def log_failures(log: logging.Logger, doing: str, meanwhile: str = "the model is compiled all the same") -> Iterator[None]:
    """Within it, an exception ends the block alone, and is one warning.

    For reports, keys, texts and logs: none of them may stop a compilation, whatever a graph holds.

    Args:
        doing: what failed then, as in "reading the stored report failed".
        meanwhile: what becomes of the model.
    """
    try:
        yield
    except Exception as error:
        details = log.isEnabledFor(logging.DEBUG) and error
        log.warning("%s failed: %s: %s; %s", doing, type(error).__name__, first_line(error), meanwhile, exc_info=details)


def first_line(error: BaseException) -> str:
    """The first line of an error's text; empty where it has none, or making it fails too."""
    try:
        return str(error).strip().split("\n")[0]
    except Exception:
        return ""
