# SPDX-License-Identifier: Apache-2.0
"""Generated code that comes with the package: what ``codegen_cache`` keeps on a disk, packed into one file a kernel.

The file lies beside the kernel's tables and holds the cache's files by name.  A name is a digest of all that the code depends
on, so what is stale is not found, and needs no rule of its own.  What is in it is run, as the package's sources are.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from helion_compile.atomic_write import write_atomically
from helion_compile.configs.files import BUILT_IN, kernel_folder, shipped_folder

__all__ = ["Packed", "find_code", "forget", "pack_code"]

log = logging.getLogger(__name__)

_FILE = "generated_code.json.xz"


class Packed(NamedTuple):
    """A file that was written.

    Attributes:
        codes: of how many configs it has the code.
        size: of the file, in bytes.
    """

    file: Path
    codes: int
    size: int


def find_code(kernel: str, name: str) -> str | None:
    """The text of the cache's file ``name`` for a kernel, or None where none is shipped."""
    return _read(kernel).get(name) if kernel.startswith(f"{BUILT_IN}::") else None


def pack_code(cache: Path, kernels: Mapping[str, str], folder: Path | None = None) -> list[Packed]:
    """Pack the generated code in a folder of ``codegen_cache`` beside the shipped tables, with what is packed there already.

    Args:
        cache: the folder, which a run with the models and versions to pack for has filled.
        kernels: identity (``codegen_cache.identify``) -> name of each kernel.  Code of other versions is left out.
        folder: of the tables; by default the package's own.
    """
    known: dict[str, dict[str, str]] = {}
    for name in kernels.values():
        for file, text in _read(name).items():
            known.setdefault(name, {})[file] = text
    for kept_code in sorted(cache.glob("*.py")):
        text = kept_code.read_text()
        header = _header_of(text)
        places = cache / f"{header.get('base')}.json"
        if header.get("kernel") in kernels and places.exists():
            known.setdefault(kernels[header["kernel"]], {}).update({kept_code.name: text, places.name: places.read_text()})
    written = []
    for name, files in sorted(known.items()):
        # Old versions of a kernel have code that nobody can find any more.
        headers = {file: _header_of(text) for file, text in files.items() if file.endswith(".py")}
        current = {file: files[file] for file, header in headers.items() if header.get("kernel") in kernels}
        bases = {f"{headers[file]['base']}.json" for file in current}
        kept = current | {file: text for file, text in files.items() if file in bases}
        if kept:
            written.append(_write(kernel_folder(folder or shipped_folder(), name), kept, len(current)))
    forget()
    return written


def forget() -> None:
    """Read the files anew when they are next asked."""
    _read.cache_clear()


def _header_of(text: str) -> dict[str, str]:
    """What the first line of kept code says of it."""
    found: dict[str, str] = json.loads(text.partition("\n")[0].removeprefix("# "))
    return found


def _write(folder: Path, files: Mapping[str, str], codes: int) -> Packed:
    import lzma

    folder.mkdir(parents=True, exist_ok=True)
    content = lzma.compress(json.dumps(dict(sorted(files.items()))).encode(), preset=9)
    write_atomically(folder / _FILE, content, mode=0o644, durable=True)
    return Packed(folder / _FILE, codes, len(content))


@functools.cache
def _read(kernel: str) -> Mapping[str, str]:
    file = kernel_folder(shipped_folder(), kernel) / _FILE
    try:
        import lzma  # some builds of Python lack it

        found = json.loads(lzma.decompress(file.read_bytes()))
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return {}
    except Exception as error:  # damaged: the code can be made anew
        log.warning("%s is passed over, and code is generated anew: %s: %s", file, type(error).__name__, error)
        return {}
