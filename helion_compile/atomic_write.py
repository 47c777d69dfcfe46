# SPDX-License-Identifier: Apache-2.0
"""Writing a file whole or not at all; tables, generated code and stored reports are written so."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: bytes, mode: int = 0o600, *, durable: bool) -> None:
    """Put ``content`` into ``path``, whose folder exists; a reader finds the old file or the new one, never a part.

    Where writing fails the old file stays, and nothing is left beside it.  A writer that is killed leaves
    ``.<name>.*.tmp``.

    Args:
        mode: who may read and write the file; by default its owner alone.
        durable: whether the new file is on the disk when this returns, its name too, so that a machine that loses power
            then has it: for what cannot be made again, since each disk access waits.

    Raises:
        OSError: it cannot be written.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if mode != 0o600:  # as mkstemp makes it
            os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    if durable and os.name == "posix":  # the new name is on the disk only when its folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
