# SPDX-License-Identifier: Apache-2.0
"""Every refusal that the sources make is a value: its kind, what was found, what would fuse, and the details of both texts.

``Refusal`` itself checks these when it is made.  Here the calls are checked that no test may reach.
"""

import ast
import json
import string
from pathlib import Path

import pytest

import helion_compile
from helion_compile import passes
from helion_compile.passes.account.refusal import RefusalKind

PASSES, OURS = Path(passes.__file__).parent, Path(helion_compile.__file__).parent
FILES = [*PASSES.rglob("*.py"), *(path for path in OURS.rglob("*.py") if PASSES not in path.parents)]
# name of the method -> how many arguments stand before kind, found and remedy
MAKERS = {"fail": 1, "refuse": 0, "of": 0}


def texts_of(node, names):
    """The texts that an expression can be: of a constant, or of a name that is given one in the same function."""
    if isinstance(node, ast.Constant):
        return [node.value]
    if isinstance(node, ast.Name):
        return names.get(node.id, [])
    if isinstance(node, ast.BinOp):
        return [left + right for left in texts_of(node.left, names) for right in texts_of(node.right, names)]
    if isinstance(node, ast.IfExp):
        return [*texts_of(node.body, names), *texts_of(node.orelse, names)]
    return []


def assigned_texts(function):
    """name -> the texts that are assigned to it, one by one or as a pair, in the order of the lines."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        target = node.targets[0]
        pairs = (
            zip(target.elts, node.value.elts, strict=False)
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            else [(target, node.value)]
        )
        for name, value in pairs:
            if isinstance(name, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield node.lineno, name.id, value.value


def refusals(path):
    """(line, kind, found, remedy, names of details) of each call that makes a refusal."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        assigned = sorted(assigned_texts(function))
        for call in ast.walk(function):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in MAKERS):
                continue
            kinds = [index for index, argument in enumerate(call.args) if ast.unparse(argument).startswith("RefusalKind.")]
            if not kinds:
                continue
            names = {name: [text] for line, name, text in assigned if line <= call.lineno}  # the last one before the call
            start = kinds[0] + (2 if call.func.attr == "of" else 1)
            found, remedy = (texts_of(argument, names) for argument in (*call.args, None, None)[start : start + 2])
            yield call.lineno, ast.unparse(call.args[kinds[0]]), found, remedy, {each.arg for each in call.keywords}


FOUND = [
    pytest.param(*rest, id=f"{path.relative_to(path.parents[3])}:{line}")
    for path in FILES
    for line, *rest in refusals(path)
    if path.name != "refusal.py"
]


def test_they_are_found():
    """So that the test below looks at what it should."""
    assert len(FOUND) > 120
    unread = [param.id for param in FOUND if not (param.values[1] and param.values[2])]
    assert len(unread) == 1 and "operator_table" in unread[0]  # whose texts are those of the rows


@pytest.mark.parametrize(("kind", "found", "remedy", "details"), FOUND)
def test_each_says_what_was_found_and_what_would_fuse(kind, found, remedy, details):
    assert RefusalKind[kind.removeprefix("RefusalKind.")]
    assert all(found) and all(remedy)
    fields = {field for text in (*found, *remedy) for _, field, _, _ in string.Formatter().parse(text) if field}
    assert fields == details or not (found and remedy), "each detail stands in a text, and each field in braces is a detail"


def test_the_schema_has_the_kinds():
    schema = json.loads((OURS / "reports" / "report.schema.json").read_text(encoding="utf-8"))
    assert schema["$defs"]["kind"]["enum"] == [kind.value for kind in RefusalKind]
