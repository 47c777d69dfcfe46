# SPDX-License-Identifier: Apache-2.0
"""Reports of graphs that Inductor keeps in its cache: it serves the code of a later process, so the report is served too.

One file a graph beside Inductor's own (``<cache folder>/helion_reports``, which goes when that folder is emptied), named by
what Dynamo's graph says with its shapes, modules and source lines, and by all that decides what becomes of it.  A file that
is damaged, of another version, of somebody else or too large counts as none, with one warning.  Only files of ours are ever
removed, by the pattern of their names, and nothing is read or written where others may write.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import logging
import os
import re
import stat
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule, Node

from helion_compile.atomic_write import write_atomically
from helion_compile.compat import is_traceable_wrapper_subclass
from helion_compile.configs.gpu import Gpu
from helion_compile.passes.ir.dynamic_sizes import symbols_in
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import format_target
from helion_compile.private_files import (
    NotPrivateError,
    log_refusal_once,
    make_private_folder,
    read_private_file,
    require_private_folder,
)
from helion_compile.reports.encoding import decode, encode
from helion_compile.reports.model import GraphReport

__all__ = ["LIMIT", "keep_reports", "load_reports", "make_key"]

log = logging.getLogger("helion_compile")

LIMIT = 256  # files, of about 18 kB a decoder layer
_LARGEST_PACKED, _LARGEST = 16 * 2**20, 64 * 2**20  # bytes of a file as it is and unpacked: several hundred layers
_MOST_VALUES = 4 * 2**20  # in a file: a value takes some 20 bytes in it, and up to 100 in memory
_OURS = re.compile(r"\.?[0-9a-f]{64}\.json\.gz(?P<orphan>\.\w+\.tmp)?")
_WRITING = 3600  # seconds in which a temporary file may still be somebody's
# Passes of the user, which Inductor's portable configuration leaves out.
_PASSES = ("pre_grad_custom_pass", "joint_custom_pre_pass", "joint_custom_post_pass", "post_grad_custom_post_pass")
_WHOLE = 64  # elements: a constant of the graph that is larger is known by its shape


def make_key(module: GraphModule, inputs: Sequence[Any], config: Mapping[str, Any]) -> str | None:
    """The name of the report of a graph; None where Inductor keeps nothing.

    Args:
        module, inputs: the graph as Dynamo gives it, and its example inputs.
        config: what is asked of Inductor besides its global configuration, our pass among it.
    """
    from helion_compile.compat import inductor_config as inductor

    if inductor.force_disable_caches or not config.get("fx_graph_cache", inductor.fx_graph_cache):
        return None
    asked = {**inductor.save_config_portable(), **{name: getattr(inductor, name) for name in _PASSES}, **config}
    asked = {name: value.uuid() if hasattr(value, "uuid") else value for name, value in asked.items()}
    placeholders = module.graph.find_nodes(op="placeholder")
    values = [node.meta.get("example_value", given) for node, given in zip(placeholders, inputs, strict=True)]
    parts = [
        torch.__version__,
        Gpu.current() if torch.cuda.is_available() else None,
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cuda")),
        (torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()),
        sorted(asked.items()),
        list(map(_value, values)),
        symbols_in(values),
        *_nodes(module),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part!r}\0".encode())
    return digest.hexdigest()


def keep_reports(key: str, reports: Sequence[GraphReport]) -> None:
    """Store the reports of a graph under its key.  A disk that takes no more is no reason to fail."""
    text = json.dumps(encode(list(reports)), ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > _LARGEST or _count_values(text) > _MOST_VALUES:
        log.debug("the report of a graph is too large to be kept: %d bytes", len(text))
        return
    # Equal keys mean equal reports, so writers need no lock.
    try:
        folder = _folder()
        make_private_folder(folder)
        write_atomically(folder / f"{key}.json.gz", gzip.compress(text, 5), durable=False)
        _forget_oldest(folder)
    except NotPrivateError as error:
        log_refusal_once(log, f"reports are not kept: {error}")
    except OSError as error:
        log.debug("the report of a graph was not kept: %s", error)


def load_reports(key: str) -> list[GraphReport]:
    """What was stored under ``key``; empty where there is nothing, or nothing that can be read."""
    file = _folder() / f"{key}.json.gz"
    try:
        require_private_folder(file.parent)
        content = read_private_file(file, _LARGEST_PACKED)
    except FileNotFoundError:
        return []
    except NotPrivateError as error:
        log_refusal_once(log, f"stored reports are passed over: {error}")
        return []
    except (OSError, ValueError) as error:
        log.warning("a stored report is passed over: %s", error)
        return []
    try:
        found: list[GraphReport] = decode(list[GraphReport], json.loads(_unpack(content)))
    except Exception as error:  # whatever a damaged file may lead to
        log.warning("the stored report %s is damaged and passed over: %s", file, f"{type(error).__name__}: {error}"[:200])
        with contextlib.suppress(OSError):
            file.unlink()
        return []
    with contextlib.suppress(OSError):  # a folder of somebody else's, say
        os.utime(file)  # the ones used last are kept
    return found


def _unpack(content: bytes) -> bytes:
    """The text of a report; an error for what takes more memory than one does."""
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    text = unpacker.decompress(content, _LARGEST)
    if unpacker.unconsumed_tail:
        raise ValueError(f"it has more than {_LARGEST} bytes unpacked")
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("it is cut off, or followed by something else")
    if _count_values(text) > _MOST_VALUES:
        raise ValueError(f"it has more than {_MOST_VALUES} values")
    return text


def _count_values(text: bytes) -> int:
    """At most as many as there are in a JSON text."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _folder() -> Path:
    from helion_compile.compat import cache_dir

    return Path(cache_dir()) / "helion_reports"


def _forget_oldest(folder: Path) -> None:
    """Remove our files but for the last ones, and what a writer that was killed left an hour ago."""
    ages = {}
    for file in folder.iterdir():
        if (match := _OURS.fullmatch(file.name)) is None:
            continue
        with contextlib.suppress(FileNotFoundError):  # another process forgets as well
            found = file.lstat()
            if not stat.S_ISREG(found.st_mode):
                continue
            if not match["orphan"]:
                ages[file] = found.st_mtime
            elif found.st_mtime < time.time() - _WRITING:
                file.unlink(missing_ok=True)
    for file in sorted(ages, key=ages.__getitem__)[:-LIMIT]:
        file.unlink(missing_ok=True)


# --- the key ------------------------------------------------------------------------------------------------------------


def _nodes(module: GraphModule) -> Iterator[Any]:
    """Every node with its place in the model, and the graphs inside of it."""
    for node in module.graph.nodes:
        target = node.target if isinstance(node.target, str) else format_target(node.target)
        yield node.op, node.name, target, node.args, node.kwargs, Location.of(node)
        if node.op == "get_attr":
            yield from _attribute(node, module)


def _attribute(node: Node, module: GraphModule) -> Iterator[Any]:
    value = functools.reduce(getattr, node.target.split("."), module)
    if isinstance(value, GraphModule):
        yield from _nodes(value)
    elif isinstance(value, torch.Tensor):
        yield _value(value)
        yield value.tolist() if value.numel() <= _WHOLE else None
    else:
        yield value


def _value(value: Any) -> Any:
    """What a compiled graph may depend on of one of its inputs."""
    if not isinstance(value, torch.Tensor):
        return str(value)
    inner: list[Any] = []
    if is_traceable_wrapper_subclass(value):
        names, context = value.__tensor_flatten__()
        inner = [context, *((name, _value(getattr(value, name))) for name in names)]
    parts = (value.dtype, tuple(map(str, value.shape)), tuple(map(str, value.stride())), value.device, value.requires_grad)
    return type(value).__name__, *parts, *inner
