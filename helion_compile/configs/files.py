# SPDX-License-Identifier: Apache-2.0
"""Table files: where they lie, reading them whatever state they are in, and writing them without losing a row.

A table is one JSON list of rows for one kernel and one GPU, ``<folder>/<kernel>/<gpu>.json``. It is data: nothing in it
is executed, and no name in it becomes a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from helion_compile.atomic_write import write_atomically
from helion_compile.configs.gpu import slug
from helion_compile.configs.row import ConfigError, Row
from helion_compile.errors import truncate

__all__ = [
    "BUILT_IN",
    "TableFile",
    "kernel_folder",
    "kernel_of_folder",
    "parse_json",
    "parse_value",
    "read_table",
    "shipped_folder",
    "table_files",
    "table_paths",
    "user_folder",
    "write_rows",
]

BUILT_IN = "helion_compile"  # the namespace of this package's kernels, whose folders go without

_LONGEST_NAME = 200  # of what a folder can be named, on any file system
_LARGEST_FILE = 64 * 2**20  # bytes; a row takes about 500, so nobody tuned this
_LOCK_SECONDS = 60  # a writer holds the lock for milliseconds


def user_folder() -> Path:
    """Where the user's own tables lie: ``HELION_COMPILE_CONFIG_DIR``, else the platform's folder for user data."""
    if chosen := os.environ.get("HELION_COMPILE_CONFIG_DIR"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("helion_compile", appauthor=False)) / "configs"


def shipped_folder() -> Path:
    """The tables that come with the package."""
    return Path(__file__).parent / "shipped"


def kernel_folder(folder: Path, kernel: str) -> Path:
    """The folder of one kernel's tables: ``norm_quant``, and ``my_module.rope`` for ``my_module::rope``.

    Raises:
        ConfigError: the kernel's name is no plain one, and so might lead out of the folder.
    """
    part = r"[A-Za-z_][A-Za-z0-9_]{0,99}"
    plain = isinstance(kernel, str) and len(kernel) <= _LONGEST_NAME
    if not plain or not re.fullmatch(rf"({part}(\.{part})*::)?{part}", kernel):
        raise ConfigError(f"a kernel is named by an identifier like norm_quant or my_module::rope, not {truncate(kernel)}")
    return folder / kernel.removeprefix(f"{BUILT_IN}::").replace("::", ".")


def kernel_of_folder(folder: Path) -> str:
    """The kernel whose tables lie in ``folder``; see :func:`kernel_folder`."""
    namespace, _, bare = folder.name.rpartition(".")
    return f"{namespace or BUILT_IN}::{bare}"


class TableFile:
    """The bytes of one table as they were at one moment, and the sound rows among them.

    Attributes:
        gpu: the GPU of the table, as the file name has it.
        content: the bytes, empty when they could not be read.
        rows: the rows that can be used, in the order of the file.
        problems: one sentence for each kind of damage, naming the file and the row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gpu = path.stem
        self.content = b""
        self.rows: list[Row] = []
        self.problems: list[str] = []
        try:
            self.content = read_table(path)
            entries = parse_table(self.content)
        except (OSError, ValueError) as error:
            self.problems.append(f"the table {path} is passed over: {_reason(error)}")
            return
        bad: list[str] = []
        unknown: list[str] = []
        for index, entry in enumerate(entries):
            try:
                row = Row.from_json(entry, path, index)
            except ConfigError as error:
                bad.append(f"row {index} {error}")
                continue
            self.rows.append(row)
            if row.extra:
                unknown.append(f"row {index} has {', '.join(map(truncate, sorted(row.extra)))}")
        if bad:
            self.problems.append(f"{path}: {_first(bad)}; skipped, the other rows are used")
        # A later version may add a field that only informs. A row is measured work: it is used, and said to be odd.
        if unknown:
            self.problems.append(f"{path}: {_first(unknown)}, which this version does not know; used without it")


def table_files(folders: Iterable[Path], kernel: str) -> Iterator[TableFile]:
    """Every table of a kernel, folder by folder in the order given, then by name."""
    return (TableFile(path) for folder in folders for path in table_paths(folder, kernel))


def table_paths(folder: Path, kernel: str) -> list[Path]:
    """Where the tables of a kernel lie in ``folder``, by name."""
    with contextlib.suppress(OSError):  # an absent or unreadable folder holds no tables
        # A pipe or a device by that name would block the reader.
        return [path for path in sorted(kernel_folder(folder, kernel).glob("*.json")) if path.is_file()]
    return []


def read_table(path: Path) -> bytes:
    """The bytes of a table.

    Raises:
        OSError, ValueError: it cannot be read, or is too large for a table.
    """
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"it is larger than {_LARGEST_FILE >> 20} MiB")
    return path.read_bytes()


def parse_json(content: bytes) -> Any:
    """Strict JSON; ``ValueError`` with the reason for anything else, NaN and infinities included."""
    try:
        return json.loads(content, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_value(text: str) -> Any:
    """What an option says of a key field: JSON, or else a word."""
    if text in ("NaN", "Infinity", "-Infinity"):
        return float(text)  # which no case holds
    try:
        return parse_json(text.encode())
    except ValueError:
        return text


def parse_table(content: bytes) -> list[Any]:
    """The entries of a table, unchecked; ``ValueError`` when it is not a JSON list."""
    entries = parse_json(content)
    if not isinstance(entries, list):
        raise ValueError(f"a table is a list of rows, not {truncate(entries, 40)}")
    return entries


def write_rows(folder: Path, kernel: str, gpu: str, rows: Iterable[Row]) -> Path:
    """Puts ``rows`` into ``<folder>/<kernel>/<gpu>.json`` beside all that is there, and returns that path.

    A row takes the place of one with the same case and kernel fingerprint. The file is replaced as a whole, under a
    lock, after its bytes have reached the disk: whenever a process dies, the table holds all its old rows, and then all
    the new ones. A file that is no table is set aside, never overwritten.

    Raises:
        ConfigError: the folder cannot be written, the disk is full, or another process keeps the lock for a minute.
    """
    import filelock

    table = kernel_folder(folder, kernel) / f"{slug(gpu)}.json"
    target = Path(os.path.realpath(table))  # what a link names is written, and the link stays
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK):
            raise PermissionError("the folder is read-only")
        with filelock.FileLock(target.with_name(f".{target.name}.lock"), timeout=_LOCK_SECONDS):
            # The lock is ours, so a temporary file of this table was left by a writer that died.
            for orphan in target.parent.glob(f".{target.name}.*.tmp"):
                orphan.unlink()
            content = _render(_merge(_entries_to_keep(target), rows))
            write_atomically(target, content, mode=0o644, durable=True)  # a table is for others to read, too
    except filelock.Timeout:
        raise ConfigError(
            f"no rows were written to {table}: another process has held its lock for {_LOCK_SECONDS} s; "
            "end that process or choose another folder with HELION_COMPILE_CONFIG_DIR"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"no rows were written to {table}: {_reason(error)}; its old rows are untouched, "
            "and HELION_COMPILE_CONFIG_DIR chooses another folder"
        ) from None
    return table


def _entries_to_keep(target: Path) -> list[Any]:
    if target.exists() and not target.is_file():
        raise FileExistsError("it is no file")  # and reading a pipe would wait for a writer for ever
    try:
        content = target.read_bytes()
    except FileNotFoundError:
        return []
    # Named after its content: setting aside twice loses nothing, whichever of two damaged files came first.
    aside = target.with_name(f"{target.name}.damaged-{hashlib.sha256(content).hexdigest()[:8]}")
    try:
        entries = parse_table(content)
    except ValueError:
        os.replace(target, aside)
        return []
    if not _can_render(entries):
        write_atomically(aside, content, mode=0o644, durable=True)
        return [entry for entry in entries if _can_render(entry)]
    return entries


def _can_render(entries: Any) -> bool:
    """Whether they can be written again: 1e999, which JSON allows, is read as an infinity."""
    try:
        json.dumps(entries, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


def _merge(entries: list[Any], rows: Iterable[Row]) -> list[Any]:
    """Rows of other cases and versions stay, and entries that are no rows stay word for word, at the end."""
    kept: dict[Any, list[Row]] = {}
    damaged = []
    for entry in entries:
        try:
            row = Row.from_json(entry)
        except ConfigError:
            damaged.append(entry)
        else:
            kept.setdefault((row.case, row.kernel), []).append(row)
    kept.update({(row.case, row.kernel): [row] for row in rows})
    ordered = sorted((row for group in kept.values() for row in group), key=lambda row: (row.case.order, row.kernel or ""))
    return [row.to_json() for row in ordered] + damaged


def _render(entries: list[Any]) -> bytes:
    # A row a line: a diff shows the rows that changed.
    lines = ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries)
    return f"[\n{lines}\n]\n".encode()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _first(sentences: list[str]) -> str:
    more = len(sentences) - 1
    return sentences[0] + (f" (and {more} more row{'s' * (more > 1)} like it)" if more else "")


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
