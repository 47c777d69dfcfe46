# SPDX-License-Identifier: Apache-2.0
"""Helion's generated code kept on disk, so that a later process needs neither Helion's tracing nor its code generation.

Tracing a kernel and writing its Triton code takes Helion 0.1 s to 0.5 s; reading it back takes milliseconds.  What was
generated is found by all that it can depend on: the fingerprint of the kernel's Helion function; the versions of Helion,
torch and Triton; Helion's settings and environment; the key by which Helion itself tells calls apart, with the architecture
of the GPU; and the config.  Where Helion has to find a config, the GPU counts too.  Parts of that key are known only after
tracing: which sizes and strides ``hl.specialize`` built in; their places are kept beside the code.  What is specialised in
another way is not kept at all.

What comes with the package is asked first (``shipped_code``).  The folder lies in Inductor's cache folder, or is
``HELION_COMPILE_CACHE_DIR``.  What is in it is run: a folder or a file that others own, or may write, is passed over
(``helion_compile/private_files.py``), with one warning.

Private interfaces of Helion (``compat``): ``Kernel._base_specialization_key``, and of a bound kernel's ``env``
``specialized_vars``, ``specialized_strides`` and ``shape_env``, and ``get_cached_path``.  Where they differ, nothing is kept.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import linecache
import logging
import os
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from helion_compile.atomic_write import write_atomically
from helion_compile.private_files import (
    NotPrivateError,
    log_refusal_once,
    make_private_folder,
    read_private_file,
    require_private_folder,
)
from helion_compile.runtime import shipped_code

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["identify", "keep_host_function", "load_host_function"]

log = logging.getLogger(__name__)

_LARGEST = 16 * 2**20  # bytes; generated code has some 10 kB, so nobody tuned this

# (parameter, "size" or "stride", dimension), or (parameter, "value", 0) for a number
Place = tuple[int, str, int]


_places_of: dict[str, list[Place]] = {}
_hosts: dict[str, Callable[..., Any]] = {}


def load_host_function(
    kernel: KernelSpec, args: tuple[Any, ...], config: Mapping[str, Any] | None
) -> Callable[..., Any] | None:
    """The host function that Helion generated for such a call in an earlier process, or None."""
    try:
        base = _make_base_key(kernel, args)
        if (host := _load_shipped(kernel, base, args, config)) is not None:
            return host
        places = _places_of.get(base) or json.loads(_read(_folder() / f"{base}.json"))
        name = _name(kernel, base, args, places, config)
        if name not in _hosts:
            file = _folder() / f"{name}.py"
            _hosts[name] = _run(_read(file), file)
        _places_of[base] = places
        return _hosts[name]
    except FileNotFoundError:
        return None
    except NotPrivateError as error:
        log_refusal_once(log, f"generated code is not run from there, but made anew: {error}")
        return None
    except Exception as error:  # damaged, or another Helion: it can be made anew
        log.debug("no generated code of %s was read: %s: %s", kernel.short_name, type(error).__name__, error)
        return None


def _load_shipped(
    kernel: KernelSpec, base: str, args: tuple[Any, ...], config: Mapping[str, Any] | None
) -> Callable[..., Any] | None:
    places = shipped_code.find_code(kernel.name, f"{base}.json")
    if places is None:
        return None
    name = _name(kernel, base, args, json.loads(places), config)
    if name not in _hosts:
        text = shipped_code.find_code(kernel.name, f"{name}.py")
        if text is None:
            return None
        _hosts[name] = _run(text, Path(__file__).with_name(f"{name}.py"))
    return _hosts[name]


def identify(kernel: KernelSpec) -> str:
    """The version of a kernel that its generated code is for: what Helion reads of it, not its reference or its checks."""
    return f"{kernel.name}@{kernel.config_fingerprint}"


def keep_host_function(
    kernel: KernelSpec, args: tuple[Any, ...], config: Mapping[str, Any] | None, bound: Any, chosen: Any
) -> None:
    """Keep what Helion generated for ``args`` and the config ``chosen``; failing to is no error.

    Args:
        config: as it was asked for: None for the default one.
    """
    try:
        places = _places(bound)
        if places is None:
            return
        base = _make_base_key(kernel, args)
        code = Path(bound.get_cached_path(chosen)).read_text()
        if "tensor_descriptor" in code:  # right for some strides only, by a rule of Helion's own
            return
        header = {
            "function": bound.kernel.name,
            "kernel": identify(kernel),
            "base": base,
            "sha256": hashlib.sha256(code.encode()).hexdigest(),
        }
        _write(_folder() / f"{_name(kernel, base, args, places, config)}.py", f"# {json.dumps(header)}\n{code}")
        _write(_folder() / f"{base}.json", json.dumps(places))
    except NotPrivateError as error:
        log_refusal_once(log, f"generated code is not kept: {error}")
    except Exception as error:
        log.debug("the generated code of %s was not kept: %s: %s", kernel.short_name, type(error).__name__, error)


def _run(text: str, file: Path) -> Callable[..., Any]:
    """The function of kept code: of the text that was checked, whatever stands in the file later."""
    head, _, code = text.partition("\n")
    header = json.loads(head.removeprefix("# "))
    if hashlib.sha256(code.encode()).hexdigest() != header["sha256"]:
        raise ValueError(f"{file} is cut off or edited")
    module = types.ModuleType(f"helion_compile_generated_{file.stem}")
    module.__file__ = str(file)
    # Triton reads the source of its kernels here; None says that it is not to be read again.
    linecache.cache[str(file)] = (len(text), None, text.splitlines(keepends=True), str(file))
    sys.modules[module.__name__] = module
    exec(compile(text, str(file), "exec"), module.__dict__)
    return getattr(module, header["function"])


def _places(bound: Any) -> list[Place] | None:
    """Where the values stand that Helion built into the code beyond its base key; None if it did so in another way."""
    from helion_compile.compat import LocalSource, TensorPropertySource

    env = bound.env
    parameters = list(bound.kernel.signature.parameters)
    sources = [env.shape_env.var_to_sources[symbol][0] for symbol in env.specialized_vars]
    places = set()
    for source in (*sources, *env.specialized_strides):
        if isinstance(source, LocalSource):
            places.add((parameters.index(source.local_name), "value", 0))
        elif isinstance(source, TensorPropertySource) and isinstance(source.base, LocalSource) and source.idx is not None:
            kind = source.prop.name.lower()
            if kind not in ("size", "stride"):
                return None
            places.add((parameters.index(source.base.local_name), kind, source.idx))
        else:
            return None
    return sorted(places)


def _values(args: tuple[Any, ...], places: list[Place]) -> list[Any]:
    read = {"size": lambda a, d: a.size(d), "stride": lambda a, d: a.stride(d), "value": lambda a, _: (type(a).__name__, a)}
    return [read[kind](args[index], dimension) for index, kind, dimension in places]


def _make_base_key(kernel: KernelSpec, args: tuple[Any, ...]) -> str:
    return _digest(_circumstances(kernel), kernel.helion._base_specialization_key(args))


def _name(kernel: KernelSpec, base: str, args: tuple[Any, ...], places: list[Place], config: Mapping[str, Any] | None) -> str:
    found: tuple[str, ...] = ()
    if config is None:  # Helion finds one: by the number of multiprocessors too, and by what the decorator says
        found = (kernel.key, torch.cuda.get_device_name() if torch.cuda.is_available() else "")
    return _digest(base, _values(args, places), config, found)


@functools.cache
def _circumstances(kernel: KernelSpec) -> str:
    import helion
    import triton

    # Those of the autotuner say how a config is looked for, some of them with the time of day.
    names = [each.name for each in dataclasses.fields(kernel.helion.settings) if not each.name.startswith("autotune")]
    settings = [(name, repr(getattr(kernel.helion.settings, name))) for name in sorted(names)]
    environment = [item for item in sorted(os.environ.items()) if item[0].startswith(("HELION_", "TRITON_"))]
    environment = [item for item in environment if not item[0].endswith("_DIR")]
    # The builds of a torch ("+cu130", "+cpu") trace alike.
    versions = (torch.__version__.partition("+")[0], triton.__version__, getattr(helion, "__version__", ""))
    return _digest(identify(kernel), versions, settings, environment)


def _digest(*what: Any) -> str:
    text = repr([sorted(part.items()) if isinstance(part, Mapping) else part for part in what])
    if " at 0x" in text:
        raise ValueError(
            f"a part of the key has no text that is equal in every process: {text[max(0, text.index(' at 0x') - 60) :]:.100}"
        )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _folder() -> Path:
    if chosen := os.environ.get("HELION_COMPILE_CACHE_DIR"):
        return Path(chosen).expanduser().resolve()
    from helion_compile.compat import cache_dir

    return Path(cache_dir()) / "helion_compile"


def _read(file: Path) -> str:
    require_private_folder(file.parent)
    return read_private_file(file, _LARGEST).decode()


def _write(file: Path, content: str) -> None:
    make_private_folder(file.parent)
    write_atomically(file, content.encode(), durable=False)
