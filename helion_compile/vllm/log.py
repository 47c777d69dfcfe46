# SPDX-License-Identifier: Apache-2.0
"""Messages in vLLM's log: its handlers show what is logged below "vllm"."""

from __future__ import annotations

import logging

__all__ = ["log", "note", "off"]

log = logging.getLogger("vllm.helion_compile")
_said: set[str] = set()


def off(what: str, why: object) -> None:
    """Warn, once in a process, that ``what`` is off and why."""
    if what not in _said:
        _said.add(what)
        log.warning("helion_compile: %s: %s", what, why)


def note(what: str) -> None:
    """Say ``what``, once in a process."""
    if what not in _said:
        _said.add(what)
        log.info("helion_compile: %s", what)
