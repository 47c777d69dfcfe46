# SPDX-License-Identifier: Apache-2.0
"""Digests of what a kernel is made of: equal in every process, different after an edit.

There are two, kept apart by what a wrong answer costs:

``fingerprint``         for compiled graphs, where a stale one is a wrong result: every word of what the kernel
                        reaches, and Helion's version.
``config_fingerprint``  for tuned configs, where a needless change throws away hours on a GPU: the syntax of what
                        Helion makes code of.  A comment, a docstring, a moved line or another Helion change nothing.

A digest of a function's own text would miss an edited helper or module constant, so both follow what it can name:
globals, closure, defaults, members of modules and classes.  Installed libraries are not followed, and what is found
through ``getattr`` with a computed name is out of sight.
"""

from __future__ import annotations

import ast
import collections.abc
import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import inspect
import os
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from helion_compile import passes
from helion_compile.compat import disable_current_modes
from helion_compile.passes.digest import digest_sources

__all__ = ["config_fingerprint", "digest_packages", "fingerprint"]

_PLAIN: tuple[type, ...] = (type(None), bool, int, float, complex, str, bytes, type(...), enum.Enum)
_PLAIN += (torch.dtype, torch.device, torch.layout, torch.memory_format)
_STDLIB = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
_LIBRARIES = {"torch", "helion", "triton"}  # wherever they lie: a checkout of torch is no part of a kernel either
_MOST_ELEMENTS = 65536  # of a constant tensor; of a larger one as many are looked at


def fingerprint(*roots: Callable | None, extra: object = None) -> str:
    """Eight hex digits over all that ``roots`` reach, word for word, Helion's version and ``repr(extra)``."""
    return _digest(_Reached(_words, roots), roots, (importlib.metadata.version("helion"), extra))


def config_fingerprint(function: Callable, extra: object = None) -> str:
    """Eight hex digits over the syntax of ``function`` and of all it reaches, and ``repr(extra)``."""
    return _digest(_Reached(_syntax, (function,)), (function,), extra)


@functools.cache
def digest_packages() -> str:
    """A hash of all sources of this package and of ``passes``: a compile cache must never serve another version's code."""
    # The folder of ``passes`` is named apart: in a checkout it is a link, which rglob does not follow.
    folders = [Path(__file__).parents[1], Path(passes.__file__).parent]
    return hashlib.sha256("".join(map(digest_sources, folders)).encode()).hexdigest()


def _digest(reached: _Reached, roots: tuple[Callable | None, ...], extra: object) -> str:
    digest = hashlib.sha256(repr(extra).encode())
    for root in roots:
        for text in reached.texts(root):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:8]


class _Reached:
    """Walks from values to what they are made of, depth first in the order of the names; each thing once."""

    def __init__(self, text_of: Callable[[types.CodeType | type, bool], str], roots: tuple[Callable | None, ...]) -> None:
        self.text_of = text_of
        self.roots = roots
        self.packages = {(root.__module__ or "").partition(".")[0] for root in roots if hasattr(root, "__module__")}
        self.seen: dict[int, tuple[int, object]] = {}  # by id; the object is kept, so that its id stays its own

    def texts(self, value: object) -> Iterator[str]:
        if isinstance(value, _PLAIN):
            yield repr(value)
            return
        if isinstance(value, tuple):  # equal ones may be one object or not, as Python likes
            yield from self._each(value)
            return
        if id(value) in self.seen:
            yield f"again {self.seen[id(value)][0]}"
            return
        self.seen[id(value)] = (len(self.seen), value)
        if hasattr(value, "fingerprint_roots"):  # another HelionKernel, called by a reference
            yield from self._each(value.fingerprint_roots)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, types.MethodType):
            yield from self._each((value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            yield from self._each((value.func, value.args, value.keywords))
        elif isinstance(value, torch.Tensor):
            yield _tensor(value)
        elif isinstance(value, collections.abc.Mapping) and value is not os.environ:
            yield type(value).__qualname__
            yield from self._each([part for item in value.items() for part in item])
        elif isinstance(value, (set, frozenset)):
            yield type(value).__qualname__
            yield from self._each(sorted(value, key=repr))
        elif isinstance(value, list):
            yield from self._each(value)
        elif isinstance(value, property):
            yield from self._each((value.fget, value.fset))
        elif inner := _wrapped(value):  # staticmethod, functools.cache, triton.jit, helion.kernel
            yield from self.texts(inner)
        elif self._counts(type(value)):
            yield from self.texts(type(value))
            yield from self.texts(getattr(value, "__dict__", None))
        else:  # a library's own: its repr may tell an address, or how this process is set up
            yield repr(value) if isinstance(value, (range, slice, re.Pattern)) else _library_name(value)

    def _each(self, values: collections.abc.Sequence[object]) -> Iterator[str]:
        yield f"{type(values).__name__} of {len(values)}"
        for value in values:
            yield from self.texts(value)

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        if not self._counts(function):
            yield function.__qualname__
            return
        yield self.text_of(function.__code__, any(function is root for root in self.roots))
        yield from self.texts(function.__defaults__)
        yield from self.texts(function.__kwdefaults__)
        for name, value in self._references(function):
            yield name
            yield from self.texts(value)

    def _class(self, kind: type) -> Iterator[str]:
        if not self._counts(kind):
            yield kind.__qualname__
            return
        yield self.text_of(kind, False)
        yield from self._each(kind.__bases__)
        for name, member in vars(kind).items():
            # Of the members that Python itself writes, such as __slotnames__, some come and go while a process runs, and the
            # methods of a dataclass differ between versions of Python; they follow from the class's text.
            generated = dataclasses.is_dataclass(kind) and not _has_source(member)
            if not name.startswith("__") or (isinstance(member, types.FunctionType) and not generated):
                yield name
                yield from self.texts(member)

    def _references(self, function: types.FunctionType) -> list[tuple[str, object]]:
        """What the function's code can name: its closure, its globals, and members of modules among them."""
        names = _names(function.__code__)
        found: dict[str, object] = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            # A cell is empty while the function that fills it is being defined.
            with contextlib.suppress(ValueError):
                found[name] = cell.cell_contents
        scopes = [("", function.__globals__)]
        for prefix, scope in scopes:
            for name in names & scope.keys():
                value = scope[name]
                if not isinstance(value, types.ModuleType):
                    found[prefix + name] = value
                elif self._is_own(value.__name__) and all(vars(value) is not known for _, known in scopes):
                    scopes.append((f"{prefix}{name}.", vars(value)))
        return sorted(found.items(), key=lambda entry: entry[0])

    def _counts(self, item: types.FunctionType | type) -> bool:
        return self._is_own(item.__module__ or "")

    def _is_own(self, module: str) -> bool:
        """Whether a module belongs to the kernel's own code rather than to an installed library."""
        package = module.partition(".")[0]
        if package in self.packages:
            return True
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is None or package in _LIBRARIES or file.startswith(_STDLIB):
            return False
        return not {"site-packages", "dist-packages"} & set(Path(file).parts)


def _has_source(member: object) -> bool:
    code = getattr(member, "__code__", None)
    return code is not None and code.co_filename != "<string>" and code.co_filename != dataclasses.__file__


def _names(code: types.CodeType) -> set[str]:
    """Names of globals and attributes, of functions inside too."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _library_name(value: object) -> str:
    return str(getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__)


def _wrapped(value: object) -> object:
    for attribute in ("__wrapped__", "__func__", "fn", "func"):
        inner = getattr(value, attribute, None)
        if isinstance(inner, types.FunctionType):
            return inner
    return None


def _tensor(value: torch.Tensor) -> str:
    with disable_current_modes():  # the first use of a kernel may be in the middle of tracing
        some = value.detach().flatten()[:: 1 + value.numel() // _MOST_ELEMENTS]
        return f"{value.dtype} {tuple(value.shape)} {some.tolist()}"


def _words(item: types.CodeType | type, is_root: bool) -> str:
    """The source as it is written, and of a lambda, whose lines may be cut short, the code too."""
    try:
        text = inspect.getsource(item)
    except (OSError, TypeError):  # typed at a prompt, or generated
        return _code(item)
    return text + _code(item) if getattr(item, "co_name", "") == "<lambda>" else text


def _syntax(item: types.CodeType | type, is_root: bool) -> str:
    """The syntax tree of the source, without what Helion does not see; of a root without its decorators."""
    if getattr(item, "co_name", "") == "<lambda>":
        return _code(item)
    try:
        source = inspect.getsource(item)
        tree = ast.parse(f"if True:\n{source}" if source[:1].isspace() else source)
    except (OSError, TypeError, SyntaxError):
        return _code(item)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if is_root:
                node.decorator_list = []
            if ast.get_docstring(node) is not None:
                del node.body[0]
    return _tree(tree)


def _tree(node: object) -> str:
    """Like ast.dump, but equal in all versions of Python: fields that are empty, or that some lack, are left out."""
    if isinstance(node, list):
        return f"[{', '.join(map(_tree, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, getattr(node, name, None)) for name in node._fields if name not in ("ctx", "kind", "type_comment")]
    given = [f"{name}={_tree(value)}" for name, value in fields if value is not None and value != []]
    return f"{type(node).__name__}({', '.join(given)})"


def _code(item: object) -> str:
    """Bytecode, for want of a source.  Without addresses or the order of sets, which differ between processes."""
    if isinstance(item, types.CodeType):
        return f"({item.co_code!r}, {item.co_names}, {item.co_varnames}, [{', '.join(map(_code, item.co_consts))}])"
    if isinstance(item, frozenset):
        return f"{{{', '.join(sorted(map(_code, item)))}}}"
    if isinstance(item, tuple):
        return f"({', '.join(map(_code, item))})"
    return item.__qualname__ if isinstance(item, type) else repr(item)
