# SPDX-License-Identifier: Apache-2.0
"""Kernels by name and by key: how a graph node, which holds only text, finds its kernel again."""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING

from helion_compile.definitions.names import BUILT_IN, split_name
from helion_compile.errors import DuplicateKernelError, UnknownKernelError, check_type

if TYPE_CHECKING:
    from helion_compile.definitions.spec import KernelSpec

__all__ = ["find_kernel", "get_kernel", "list_kernels", "register_kernel", "remember_version"]

_lock = threading.Lock()
_by_name: dict[str, KernelSpec] = {}
_by_key: dict[str, KernelSpec] = {}
# By namespace, the module whose import defines its kernels. By name, since it stands above this file.
_MODULES = {BUILT_IN: "helion_compile.kernels"}


def register_kernel(kernel: KernelSpec) -> None:
    """Make ``kernel`` findable.

    A definition that runs again (a reloaded module, a notebook cell, a factory function) replaces its earlier self; older
    versions stay findable by key, since compiled graphs may still call them.

    Raises:
        DuplicateKernelError: another function of the same namespace has the name already.
    """
    with _lock:
        known = _by_name.get(kernel.name)
        if known is not None and not _same_definition(known, kernel):
            raise DuplicateKernelError(
                f"two Helion kernels are named {kernel.name!r}: one at {known.place}, one at {kernel.place}. Graphs and "
                f"config files find a kernel by its name; give one of them another with kernel(name=...)."
            )
        _by_name[kernel.name] = kernel


def remember_version(key: str, kernel: KernelSpec) -> None:
    """Make ``kernel`` findable by ``key``, also after a redefinition; called when its key is first asked for."""
    _by_key[key] = kernel


def list_kernels() -> list[KernelSpec]:
    """The latest version of every kernel that this process has defined."""
    with _lock:
        return list(_by_name.values())


def _same_definition(one: KernelSpec, other: KernelSpec) -> bool:
    # The place counts too: a module may be loaded twice, under two names.
    return one.place == other.place or all(
        getattr(one.fn, name) == getattr(other.fn, name) for name in ("__module__", "__qualname__")
    )


def find_kernel(key: str) -> KernelSpec:
    """The kernel with this key ("helion_compile::norm_quant@1f3a5c77"), or of this name in its version of now.

    Raises:
        UnknownKernelError: no such kernel in this process; says whether another version of it is there.
    """
    if not isinstance(key, str) or "@" not in key:
        return get_kernel(key)
    kernel = _by_key.get(key)
    if kernel is not None:
        return kernel
    name = key.partition("@")[0]
    known = _look_up(name)
    if known is not None and known.key == key:
        return known
    found = (
        f"this process has another version of it, {known.key}, from {known.place}: recompile the graph"
        if known
        else f"this process has not defined it; it has {_list_names()}: import the kernel's module first"
    )
    raise UnknownKernelError(f"a compiled graph calls the Helion kernel {key}, but {found}.")


def get_kernel(name: str) -> KernelSpec:
    """The kernel of this name, in its version of now.

    Args:
        name: ``"my_module::rope"``; or ``"rope"``, for the package's own kernel of that name, or else the only one.

    Raises:
        UnknownKernelError: no such kernel in this process, or several.
    """
    check_type("the name of a kernel", name, str, "a text, such as 'norm_quant' or 'my_module::rope'")
    namespace, bare = split_name(name)
    kernel = _look_up(name if namespace else f"{BUILT_IN}::{bare}")
    if kernel is not None:
        return kernel
    alike = [] if namespace else [known for known in list_kernels() if known.bare_name == bare]
    if len(alike) == 1:
        return alike[0]
    if alike:
        names = ", ".join(sorted(known.name for known in alike))
        raise UnknownKernelError(f"several Helion kernels are named {name!r}: {names}; say which")
    raise UnknownKernelError(
        f"no Helion kernel is named {name!r}; this process has {_list_names()}: import the module of yours first"
    )


def _look_up(name: str) -> KernelSpec | None:
    """The kernel of this full name, which a graph from a cache may be the first to name."""
    if name not in _by_name and (module := _MODULES.get(split_name(name)[0])):
        importlib.import_module(module)
    return _by_name.get(name)


def _list_names() -> str:
    for module in _MODULES.values():
        importlib.import_module(module)
    return ", ".join(sorted(kernel.short_name for kernel in list_kernels()))
