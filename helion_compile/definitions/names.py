# SPDX-License-Identifier: Apache-2.0
"""Names of kernels: ``namespace::name``, as ``torch.library`` has them.

The kernels of this package are ``helion_compile::norm_quant``.  Any other's namespace is its module, as in
``my_package.my_module::rope``, so that nobody's ``rope`` is in the way of another's.
"""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

from helion_compile.configs.files import BUILT_IN, kernel_folder
from helion_compile.configs.row import ConfigError
from helion_compile.errors import truncate

__all__ = ["BUILT_IN", "make_name", "shorten_name", "split_name"]

_PART = r"[A-Za-z_]\w*"
_NAMESPACE = re.compile(rf"{_PART}(\.{_PART})*", re.ASCII)
_NAME = re.compile(rf"{_NAMESPACE.pattern}::{_PART}", re.ASCII)


def make_name(name: Any, fn: types.FunctionType) -> str:
    """The full name of the kernel that ``fn`` becomes.

    Args:
        name: as its author gave it: ``namespace::name``, a name without namespace, or None for the function's.

    Raises:
        TypeError: it is no name, or claims the namespace of this package.
    """
    given = fn.__name__ if name is None else name
    own = _find_namespace(fn)
    full = given if not isinstance(given, str) or "::" in given else f"{own}::{given}"
    try:
        kernel_folder(Path(), full)  # of a table, which takes no more than file systems do
        named = _NAME.fullmatch(full)
    except ConfigError:
        named = None
    if not named:
        raise TypeError(
            f"a kernel was given the name {truncate(given)}; generated code and config files need an identifier like "
            f"rms_norm, or my_namespace::rms_norm. Pass one as kernel(name=...)."
        )
    if split_name(full)[0] == BUILT_IN != own:
        raise TypeError(f"a kernel was given the name {given!r}; that namespace is for the package's own kernels.")
    return full


def split_name(name: str) -> tuple[str, str]:
    """Namespace and bare name; the namespace is empty where ``name`` has none."""
    namespace, _, bare = name.rpartition("::")
    return namespace, bare


def shorten_name(name: str) -> str:
    """The name as it is shown, also of a key: without the namespace where that is this package's."""
    return name.removeprefix(f"{BUILT_IN}::")


def _find_namespace(fn: types.FunctionType) -> str:
    """The function's module; of a script, its file."""
    module = fn.__module__ or ""
    if module.partition(".")[0] == BUILT_IN:
        return BUILT_IN
    if module in ("__main__", "__mp_main__"):  # a script; and the same in a process that multiprocessing spawned
        spec = fn.__globals__.get("__spec__")  # of `python -m package.module`
        module = spec.name.removesuffix(".__main__") if spec else Path(fn.__code__.co_filename).stem
    module = re.sub(r"[^\w.]", "_", module, flags=re.ASCII)
    return module if _NAMESPACE.fullmatch(module) else "main"  # typed at a prompt, say
