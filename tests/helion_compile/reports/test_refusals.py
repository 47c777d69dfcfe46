"""Every sentence by which something is left alone says what was found and what would fuse, wherever it stands.

``Refusal`` takes a sentence apart into these two; here each that the sources can make is taken apart, with
"…" for what is filled in.
"""

import ast
import re
from pathlib import Path

import pytest

import helion_compile
from helion_compile import passes
from helion_compile.passes.account.records import Refusal
from helion_compile.passes.ir.source_location import Location

PASSES, OURS = Path(passes.__file__).parent, Path(helion_compile.__file__).parent
# Their sources are part of what shipped tables are known by, so their sentences change with the tables only.
KEPT = {
    "function … rounded … is none of … and …",
    "the values are clamped to […, …], beyond the range of …",
    "a row of … has … elements, more than …",
}
FILES = [*PASSES.rglob("*.py"), *(OURS / "fusions").glob("*.py"), *(OURS / "kernels").glob("*.py")]
# "it takes …", "the kernel gives …": what it can do is what would fuse; why it cannot is not.
WOULD_FUSE = re.compile(
    r"\b(?:the kernel|it) (?:gives|makes|knows|turns|is one of)\b|\bboth\b|\bhave to be\b|"
    r"\bfuses?\b|\bcan be read\b|\btakes?\b|\b(?:use|mark|call)\b|\bmake\b|\balike\b|\bone dtype\b"
)


def texts(node, names):
    """All texts that an expression can give; "…" for what is only known when it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        found = [""]
        for part in node.values:
            value = part.value if isinstance(part, ast.FormattedValue) else part
            several = texts(value, names) or ["…"]
            found = [text + more for text in found for more in several]
        return found
    if isinstance(node, ast.IfExp):
        return [*texts(node.body, names), *texts(node.orelse, names)]
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in texts(value, names)]
    if isinstance(node, ast.Subscript):  # of a table of texts
        return texts(node.value, names)
    return names.get(node.id, []) if isinstance(node, ast.Name) else []


def constants(path):
    """Texts with a name, and the values of tables of texts."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values = node.value.values if isinstance(node.value, ast.Dict) else [node.value]
            if found := [text for value in values for text in texts(value, {})]:
                yield node.targets[0].id, found


CONSTANTS = dict(pair for path in FILES for pair in constants(path))


def sentences(path):
    """(line, sentence) of each refusal in a file: what is raised as Unread or Misplaced, failed with, or returned."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        nodes = [node for node in ast.walk(function) if not isinstance(node, ast.FunctionDef) or node is function]
        names = dict(CONSTANTS)
        for node in nodes:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                names[node.targets[0].id] = [*names.get(node.targets[0].id, ()), *texts(node.value, {})]
        refuses = "refuse" in function.name or ast.unparse(function.returns or ast.Constant(None)).endswith("Reason")
        for node in nodes:
            reasons = []
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                index = {"MatchFailed": 1, "Misplaced": 0, "Reason": 0}.get(called, 1 if called.endswith(".fail") else None)
                reasons = node.args[index : index + 1] if index is not None else []
            elif isinstance(node, ast.Return) and refuses and node.value is not None:
                reasons = [node.value]
            for reason in reasons:
                yield from ((node.lineno, text) for text in texts(reason, names) if text)


FOUND = [
    pytest.param(text, id=f"{path.relative_to(PASSES.parent)}:{line}")
    for path in FILES
    for line, text in sentences(path)
    if text not in KEPT
]


def test_they_are_found():
    """So that the test below looks at what it should."""
    whole = {param.values[0] for param in FOUND}
    assert len(whole) > 150
    for known in (
        "x is scaled in …; scaled in fp32, as x.float() / scale, it fuses",
        "expected max |x|, found …",
        "there is one static scale …; a static scale of one number fuses",
        "the norm is also read without the embedding; read by the embedding alone it fuses",
    ):
        assert known in whole, known
    everything = {text for path in FILES for _, text in sentences(path)}
    assert everything >= KEPT


@pytest.mark.parametrize("reason", FOUND)
def test_it_says_what_was_found_and_what_would_fuse(reason):
    refusal = Refusal("quant", reason, Location(), "node")
    assert refusal.found and refusal.remedy, reason
    by_form = "expected " in reason[:9] or " fuses, found " in reason
    assert by_form or WOULD_FUSE.search(refusal.remedy), f"nothing in {refusal.remedy!r} says what would fuse"
