# SPDX-License-Identifier: Apache-2.0
"""The code of a graph, printed of its lines when somebody asks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from helion_compile.passes.ir.graph_listing import INPUT, Line

__all__ = ["print_code"]

_NAME = re.compile(r"\b[A-Za-z_]\w*\b")


def print_code(lines: Sequence[Line]) -> str:
    """The function that these lines of a graph are, each value dropped behind its last reader; empty for no lines."""
    if not lines:
        return ""
    parameters = [
        f', {line.node}: "{line.result}"' if line.result else f", {line.node}" for line in lines if line.call == INPUT
    ]
    body = [line for line in lines if line.call != INPUT]
    printed = [f"def forward(self{''.join(parameters)}):"]
    dropped = _list_dropped(lines)
    location = None
    for index, line in enumerate(body):
        if line.location.file and line.location != location:
            location = line.location
            printed += [""] * (index > 0) + [
                f"    # File: {location.source}" + f", in {location.module}" * bool(location.module)
            ]
        if line.call.startswith("return "):
            printed.append(f"    {line.call}")
            continue
        annotation = f': "{line.result}"' if line.result else ""
        printed.append(f"    {line.node}{annotation} = {line.call}" + _drop(dropped.get(line.node, [])))
    return "\n".join(printed)


def _list_dropped(lines: Sequence[Line]) -> dict[str, list[str]]:
    """node -> the values that nothing reads behind it."""
    names = {line.node for line in lines}
    seen: set[str] = set()
    dropped: dict[str, list[str]] = {}
    for line in reversed(lines):
        read = [name for name in dict.fromkeys(_NAME.findall(line.call)) if name in names and name not in seen]
        seen.update(read)
        unread = [line.node] if line.node not in seen and line.call != INPUT else []
        dropped[line.node] = [*read, *unread]
    return dropped


def _drop(names: Sequence[str]) -> str:
    return f";  {' = '.join(names)} = None" if names else ""
