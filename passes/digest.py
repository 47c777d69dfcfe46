# SPDX-License-Identifier: Apache-2.0
"""Digest a package's sources: what caches know a version of our code by."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

__all__ = ["digest_sources"]


@functools.cache
def digest_sources(folder: Path) -> str:
    """A hash of every Python file below ``folder``: names and contents, equal in every process and installation."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
