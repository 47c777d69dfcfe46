"""Reports of graphs that Inductor keeps in its cache: it serves the code of a later process, so the report is served too.

One file a graph beside Inductor's own (``<cache folder>/helion_reports``, which goes when that folder is emptied), named by
what Dynamo's graph says with its shapes, modules and source lines, and by all that decides what becomes of it.  A file that
is damaged, or of another version, counts as none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import gzip
import hashlib
import json
import os
import types
import typing
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule, Node

from helion_compile.atomic_write import write_atomically
from helion_compile.compat import is_traceable_wrapper_subclass
from helion_compile.configs.gpu import Gpu
from helion_compile.passes import semantics
from helion_compile.passes.ir.dynamic_sizes import symbols_in
from helion_compile.passes.ir.source_location import Location
from helion_compile.passes.ir.values import format_target
from helion_compile.passes.semantics import SemanticOp
from helion_compile.reports.model import GraphReport

__all__ = ["LIMIT", "keep_reports", "load_reports", "make_key"]

LIMIT = 256  # files, of about 18 kB a decoder layer
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
    facts = [
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
    for fact in facts:
        digest.update(f"{fact!r}\0".encode())
    return digest.hexdigest()


def keep_reports(key: str, reports: Sequence[GraphReport]) -> None:
    """Store the reports of a graph under its key.  A disk that takes no more is no reason to fail."""
    # Equal keys mean equal reports, so writers need no lock.
    with contextlib.suppress(OSError):
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_encoded(list(reports)), ensure_ascii=False, separators=(",", ":"))
        write_atomically(folder / f"{key}.json.gz", gzip.compress(text.encode(), 5))
        _forget_oldest(folder)


def load_reports(key: str) -> list[GraphReport]:
    """What was stored under ``key``; empty where there is nothing, or nothing that can be read."""
    file = _folder() / f"{key}.json.gz"
    try:
        found = _decoded(list[GraphReport], json.loads(gzip.decompress(file.read_bytes())))
    except FileNotFoundError:
        return []
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError):
        with contextlib.suppress(OSError):
            file.unlink()
        return []
    with contextlib.suppress(OSError):  # a folder of somebody else's, say
        os.utime(file)  # the ones used last are kept
    return found


def _folder() -> Path:
    from helion_compile.compat import cache_dir

    return Path(cache_dir()) / "helion_reports"


def _forget_oldest(folder: Path) -> None:
    ages = {}
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process forgets as well
            ages[file] = file.stat().st_mtime
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
    facts = (value.dtype, tuple(map(str, value.shape)), tuple(map(str, value.stride())), value.device, value.requires_grad)
    return type(value).__name__, *facts, *inner


# --- the file: dataclasses as objects of their fields --------------------------------------------------------------------


_OP = "op"
_OPS = {each.__name__: each for each in vars(semantics).values() if isinstance(each, type) and issubclass(each, SemanticOp)}


def _encoded(value: Any) -> Any:
    if isinstance(value, SemanticOp):
        attributes = {each.name: _encoded(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return {_OP: type(value).__name__, **attributes}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if _has_fields(value):
        return {each.name: _encoded(getattr(value, each.name)) for each in _fields(value.__class__)}
    if isinstance(value, (list, tuple)):
        return list(map(_encoded, value))
    if isinstance(value, Mapping):
        return {name: _encoded(item) for name, item in value.items()}
    return value


def _decoded(kind: Any, value: Any) -> Any:
    """``value`` as the type ``kind``, which the fields of the dataclasses say."""
    if kind is SemanticOp:
        kind, value = _OPS[value[_OP]], {name: item for name, item in value.items() if name != _OP}
    if _has_fields(kind):
        hints = _hints(kind)
        if value.keys() != {each.name for each in _fields(kind)}:
            raise TypeError(f"expected the fields of {kind}, found {list(value)}")
        return kind(**{each.name: _decoded(hints[each.name], value[each.name]) for each in _fields(kind)})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (list, tuple):
        return origin(_decoded(arguments[0], item) for item in value)
    if origin in (dict, Mapping):
        return {name: _decoded(arguments[1], item) for name, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (each for each in arguments if each is not types.NoneType)
        return _decoded(kind, value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if kind is torch.dtype:
        value = getattr(torch, value)
    if kind is not Any and not isinstance(value, (float, int) if kind is float else kind):
        raise TypeError(f"expected {kind}, found {value!r}")
    return value


def _has_fields(value: Any) -> bool:
    return dataclasses.is_dataclass(value)


@functools.cache
def _fields(kind: type) -> tuple[dataclasses.Field, ...]:
    return tuple(each for each in dataclasses.fields(kind) if each.name != "originals")  # hold modules, for verifying only


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
