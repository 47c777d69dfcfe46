# SPDX-License-Identifier: Apache-2.0
"""Reading the config files of vLLM's Helion kernels as rows of a table.

Three forms are read: the list ``[{"key": {"hidden_size": 4096, "num_tokens": 16}, "config": {…}}]``, the older flat
``{"hidden_size_4096_num_tokens_16": {…}, "default": {…}}``, and the oldest, where such flat objects stand under the
names of GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helion_compile.configs.files import parse_json
from helion_compile.configs.gpu import Gpu
from helion_compile.configs.row import ConfigError, Row
from helion_compile.errors import truncate

__all__ = ["read_vllm_file"]

_FLAT_KEY = re.compile(r"(?:[A-Za-z][A-Za-z_]*_\d+)(?:_[A-Za-z][A-Za-z_]*_\d+)*")
_FLAT_FIELD = re.compile(r"([A-Za-z][A-Za-z_]*?)_(\d+)(?:_|$)")


def read_vllm_file(
    file: Path, gpu: Gpu, renames: dict[str, str] | None = None, fields: dict[str, Any] | None = None
) -> tuple[list[Row], list[str]]:
    """The rows of one of vLLM's config files for ``gpu``, and a sentence for each that is none, or for a file without any.

    The rows name no kernel version, because vLLM's kernel is not ours: a table uses them after rows that were tuned,
    and drops those that do not compile.

    Args:
        renames: our name of a key field by vLLM's.
        fields: key fields that every row gets, for what vLLM's keys do not say.

    Raises:
        ConfigError: the file cannot be read, is in none of the three forms, or holds other GPUs only.
    """
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{file} cannot be imported: {reason}") from None
    rows: list[Row] = []
    skipped: list[str] = []
    for place, key, config in _entries(file, content, gpu):
        try:
            theirs = _fields(key)
            named = {(renames or {}).get(name, name): value for name, value in theirs.items()}
            if len(named) < len(theirs):
                raise ConfigError(f"has two key fields that were given one name: {truncate(list(theirs))}")
            case = {**named, **(fields or {})} if named else {}
            row = Row.from_json({"case": case, "config": config, "made_with": {"source": f"vllm {file.name}"}})
            rows.append(row.checked())
        except ConfigError as error:
            skipped.append(f"{file}: {place} {error}; it is left out")
    if not rows and not skipped:
        skipped.append(f"{file} has no configs")
    return rows, skipped


def _entries(file: Path, content: Any, gpu: Gpu) -> Iterator[tuple[str, Any, Any]]:
    """Place in the file, key and config of each entry."""
    if isinstance(content, list):
        for index, entry in enumerate(content):
            known = entry if isinstance(entry, dict) else {}
            yield f"entry {index}", known.get("key"), known.get("config")
        return
    if not isinstance(content, dict):
        raise ConfigError(f"{file} cannot be imported: it is {truncate(content, 40)}, not a list or object of configs")
    if content and all(_is_section(value) for value in content.values()):
        content = _section(file, content, gpu)
    for key, config in content.items():
        yield f"entry {truncate(key)}", key, config


def _section(file: Path, content: dict[str, Any], gpu: Gpu) -> dict[str, Any]:
    # A variant's full name begins with the name that vLLM files it under: "NVIDIA H100 80GB HBM3" under nvidia_h100.
    name = max((name for name in content if f"{gpu.slug}_".startswith(f"{name}_")), key=len, default=None)
    if name is None:
        raise ConfigError(
            f"{file} cannot be imported: it has configs for {', '.join(map(truncate, list(content)[:8]))} and none for "
            f"{gpu.slug}; name one of these with --gpu"
        )
    return content[name]


def _is_section(value: Any) -> bool:
    # The values of a config are numbers, strings and lists, those of a section are configs.
    return isinstance(value, dict) and bool(value) and all(isinstance(config, dict) for config in value.values())


def _fields(key: Any) -> dict[str, Any]:
    if isinstance(key, dict):
        return key
    if key == "default":
        return {}
    if not isinstance(key, str) or not _FLAT_KEY.fullmatch(key):
        raise ConfigError(f"has {truncate(key)} where key fields and their sizes belong")
    return {name: int(size) for name, size in _FLAT_FIELD.findall(key)}
