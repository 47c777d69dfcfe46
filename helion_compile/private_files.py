# SPDX-License-Identifier: Apache-2.0
"""Files and folders that nobody but the user may write: what is executed, and what is read as the user's own, comes from such.

A folder of caches may lie in ``/tmp``, where others can make one of its name first, or put a link or a pipe into it.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
from pathlib import Path

__all__ = ["NotPrivateError", "log_refusal_once", "make_private_folder", "read_private_file", "require_private_folder"]


class NotPrivateError(OSError):
    """Others own a file or folder, or may write it, or it is no plain one; the message says which, and what to do."""


def make_private_folder(folder: Path) -> None:
    """Make a folder that its owner alone may enter, if it is missing, and the folders above it.

    Raises:
        NotPrivateError: it is there, and others may write to it.
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    require_private_folder(folder)


def require_private_folder(folder: Path) -> None:
    """Nothing, for a folder that nobody else may write to.

    Raises:
        NotPrivateError: others own it or may write to it, or it is a link.
        FileNotFoundError, OSError: it is not there, or cannot be looked at.
    """
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise NotPrivateError(f"{folder} is a link; name the folder that it leads to, or remove it")
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(20, "Not a directory", str(folder))
    _require_own(found, folder)


def read_private_file(path: Path, largest: int) -> bytes:
    """The bytes of a plain file of at most ``largest`` bytes that nobody else may write.

    Raises:
        NotPrivateError: others own it or may write it, or it is a link, a pipe or a device.
        ValueError: it is larger.
        FileNotFoundError, OSError: it cannot be read.
    """
    if path.is_symlink():
        raise NotPrivateError(f"{path} is a link, not a file")
    # Not blocking: a pipe without a writer would make the reader wait.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        found = os.fstat(file.fileno())  # of what is open, whatever has that name by now
        if not stat.S_ISREG(found.st_mode):
            raise NotPrivateError(f"{path} is a pipe, a device or a folder, not a file")
        _require_own(found, path)
        if found.st_size > largest:
            raise ValueError(f"{path} has {found.st_size} bytes, more than {largest}")
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"{path} has more than {largest} bytes")
    return content


@functools.cache
def log_refusal_once(log: logging.Logger, sentence: str) -> None:
    """Warn of what is not read or not written, once a process."""
    log.warning("%s", sentence)


def _require_own(found: os.stat_result, path: Path) -> None:
    if os.name != "posix":
        return  # elsewhere the bits of the mode say nothing of others
    if found.st_uid not in (os.geteuid(), 0):  # root can write anything as it is
        raise NotPrivateError(f"{path} belongs to another user (uid {found.st_uid}); choose a folder of your own")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotPrivateError(f"others may write to {path}; if what is in it is yours: chmod go-w {path}")
