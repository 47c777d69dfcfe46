"""passes needs torch and nothing else."""

import ast
import sys
from pathlib import Path

from helion_compile import passes

ROOT = Path(passes.__file__).parent


def imported(source: str) -> set[str]:
    """Top-level names of all modules that a source imports, wherever in it it does."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            names.add(node.module.split(".")[0])
    return names


def test_imports_torch_and_the_standard_library_only():
    allowed = {"passes", "torch", *sys.stdlib_module_names}
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 10
    for path in files:
        assert imported(path.read_text()) <= allowed, path


def test_the_check_sees_every_kind_of_import():
    source = "import a.b, c\nfrom d.e import f\ndef g():\n    import h\nif TYPE_CHECKING:\n    import i"
    assert imported(source) == {"a", "c", "d", "h", "i"}
