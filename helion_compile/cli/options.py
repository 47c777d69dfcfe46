# SPDX-License-Identifier: Apache-2.0
"""What argparse makes of the options that several commands have."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

__all__ = ["count", "output_file"]


def count(text: str) -> int:
    """A number of things of which there has to be one."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give 1 or more")
    return int(text)


def output_file(text: str) -> Path:
    """A file that can be written, so that nothing is computed for one that cannot."""
    file = Path(text)
    if file.is_dir():
        found = "it is a folder"
    elif file.exists() and not os.access(file, os.W_OK):
        found = "it is read-only"
    elif not file.exists() and not os.access(file.parent, os.W_OK):
        found = f"there is no folder {file.parent} that can be written to"
    else:
        return file
    raise argparse.ArgumentTypeError(f"{file} cannot be written, {found}; name a file in a folder that is there")
