# SPDX-License-Identifier: Apache-2.0
"""Imports of both packages run down only: from room to room, without circles of files; and no file outgrows its subject.

An import counts wherever it stands: in a function, where it would only hide a circle, and under TYPE_CHECKING, where it still
says that one file cannot be read without the other.
"""

import ast
import sys
from pathlib import Path

import pytest

import helion_compile
from helion_compile import passes

ROOT = Path(helion_compile.__file__).parent
PASSES = Path(passes.__file__).parent

# From the bottom up: a room imports its own floor and those below.
FLOORS = [
    {"passes"},
    {"compat"},
    {"configs", "verify"},
    {"definitions"},
    {"runtime"},
    {"graph"},
    {"helion_kernel"},
    {"kernels"},
    {"checking", "fusions", "reports"},
    {"vllm", "frontend"},
    {"__init__"},
    {"bench", "tune", "cli"},
    {"__main__"},
]
LEAVES = {
    "atomic_write",
    "errors",
    "lru",
    "private_files",
}  # anyone may import these; they import each other and torch at most
MOST_LINES = 350
MOST_FILES_AT_THE_ROOT = 8


def imported(source: str) -> set[str]:
    """Full names of all that a source imports, wherever in it: modules, and members of modules."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).parts).removesuffix(".py").removesuffix(".__init__")


# In a checkout ``passes`` is a link, which rglob does not follow.
FILES = {module_of(path): path for path in (*ROOT.rglob("*.py"), *PASSES.rglob("*.py"))}


def module_behind(name: str) -> str | None:
    """The module that an imported name is, or stands in; None for one of another package."""
    if name in FILES:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in FILES else None


ARROWS = {
    module: {target for name in imported(path.read_text()) if (target := module_behind(name)) and target != module}
    for module, path in FILES.items()
}


def room_of(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


def floor_of(module: str) -> int:
    room = room_of(module)
    return next(floor for floor, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_has_a_floor():
    known = set().union(*FLOORS) | LEAVES
    assert {room_of(module) for module in FILES} <= known


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_run_down(module):
    leaf, passing = room_of(module) in LEAVES, room_of(module) == "passes"
    uphill = {
        target
        for target in ARROWS[module]
        if (passing if room_of(target) in LEAVES else floor_of(target) > (0 if leaf else floor_of(module)))
    }
    assert not uphill


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Modules that reach each other (Tarjan's strongly connected components of more than one)."""
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(arrows[module]):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            circle = set()
            while not circle & {module}:
                circle.add(stack.pop())
            if len(circle) > 1:
                found.append(circle)

    for module in sorted(arrows):
        if module not in index:
            visit(module)
    return found


def test_no_files_stand_in_a_circle():
    assert circles(ARROWS) == []


def test_circles_are_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [{"b", "c"}]


def test_passes_needs_torch_and_nothing_else():
    allowed = {"torch", *sys.stdlib_module_names}
    for module, path in FILES.items():
        if room_of(module) == "passes":
            outside = {name for name in imported(path.read_text()) if not f"{name}.".startswith("helion_compile.passes.")}
            assert {name.partition(".")[0] for name in outside} <= allowed, module


def test_the_root_holds_few_files():
    assert len(list(ROOT.glob("*.py"))) <= MOST_FILES_AT_THE_ROOT


def test_no_file_is_long():
    lengths = {module: len(path.read_text().splitlines()) for module, path in FILES.items()}
    assert {module: lines for module, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_file_of_the_tests_is_long():
    files = {path: len(path.read_text().splitlines()) for path in Path(__file__).parent.rglob("*.py")}
    assert {str(path): lines for path, lines in files.items() if lines > MOST_LINES} == {}


def test_no_room_has_the_name_of_an_exported_function():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {path.stem for path in ROOT.glob("*.py")}
    assert not rooms & set(helion_compile.__all__)


def test_every_kind_of_import_is_seen():
    source = "import a.b, c\nfrom d.e import f\ndef g():\n    import h\nif TYPE_CHECKING:\n    import i"
    assert imported(source) == {"a.b", "c", "d.e.f", "h", "i"}
