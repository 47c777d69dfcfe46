# SPDX-License-Identifier: Apache-2.0
"""Whether two generated modules are one program: equal but for comments, docstrings and the names that they give themselves.

Names of Triton, torch and Python are no such names: ``tl.max`` is not ``tl.min``, however consistently it stands there.
"""

from __future__ import annotations

import ast
import itertools

__all__ = ["canonical", "find_difference"]

_HELPERS = "_source_module"  # under this name Helion's code imports the kernel's own module, and with it the kernel's helpers


def find_difference(one: str, other: str) -> str | None:
    """The first line in which the programs differ beyond names, of each; None where they are one."""
    if one == other:
        return None
    for line, other_line in itertools.zip_longest(canonical(one).splitlines(), canonical(other).splitlines(), fillvalue=""):
        if line != other_line:
            return f"`{line.strip()}` is now `{other_line.strip()}`"
    return None


def canonical(source: str) -> str:
    """The program with its own names numbered in the order of their appearance, without comments and docstrings."""
    module = ast.parse(source)
    return ast.unparse(_Numbering(_own_names(module)).visit(module))


def _own_names(module: ast.Module) -> set[str]:
    """What the module names itself: not what it imports, nor what Python has."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
    return names


class _Numbering(ast.NodeTransformer):
    def __init__(self, own: set[str]) -> None:
        self.own = own
        self.numbers: dict[str, str] = {}

    def _number(self, name: str) -> str:
        return self.numbers.setdefault(name, f"_{len(self.numbers)}")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self._number(node.name)
        if ast.get_docstring(node) is not None:
            del node.body[0]
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        # Helion hands itself in by this name, as a keyword.
        node.arg = node.arg if node.arg == "_launcher" else self._number(node.arg)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.own and node.id != "_launcher":
            node.id = self._number(node.id)
        return node

    def visit_alias(self, node: ast.alias) -> ast.AST:
        if node.asname and node.asname.startswith(_HELPERS):
            node.name = node.asname
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if _is_helpers(node.value):
            node.attr = self._number(f".{node.attr}")
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        function = node.func
        if _is_helpers(getattr(function, "value", None)) or (isinstance(function, ast.Name) and function.id in self.own):
            for keyword in node.keywords:
                if keyword.arg and getattr(function, "id", "") != "_launcher":
                    keyword.arg = self._number(f"{keyword.arg}=")
        return self.generic_visit(node)


def _is_helpers(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Name) and node.id.startswith(_HELPERS)
