# SPDX-License-Identifier: Apache-2.0
"""``import helion_compile`` imports nothing else, and torch finds the backend without importing it."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import helion_compile

ROOT = Path(helion_compile.__file__).parents[1]


def run(code: str, *folders: Path) -> None:
    """Run ``code`` in a process of its own, with ``folders`` in front of its path."""
    path = f"import sys; sys.path[:0] = {[*map(str, folders), str(ROOT)]!r}\n"
    done = subprocess.run([sys.executable, "-c", path + textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_root_imports_no_torch():
    run("import helion_compile as root; assert 'torch' not in sys.modules and set(root.__all__) <= set(dir(root))")


def test_every_name_of_the_root_is_there():
    for name in helion_compile.__all__:
        assert getattr(helion_compile, name) is getattr(helion_compile, name)
    with pytest.raises(AttributeError, match="module 'helion_compile' has no attribute 'kernal'"):
        helion_compile.kernal  # noqa: B018


def test_passes_import_no_other_room():
    run(
        """
        import helion_compile.passes.rewrite.fusion_pass
        ours = {name.split(".")[1] for name in sys.modules if name.startswith("helion_compile.")}
        assert ours == {"passes"}, ours
        assert "helion" not in sys.modules
        """
    )


@pytest.fixture
def installed(tmp_path):
    """A folder with what an installation says of the package, taken from pyproject.toml."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = tmp_path / "helion_compile-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: helion-compile\nVersion: 1\n")
    points = "\n".join(f"{name} = {value}" for name, value in project["entry-points"]["torch_dynamo_backends"].items())
    (folder / "entry_points.txt").write_text(f"[torch_dynamo_backends]\n{points}\n")
    return tmp_path


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
class TestEntryPoint:
    def test_it_is_a_backend_that_imports_nothing(self, installed):
        run(
            """
            import importlib.metadata
            (point,) = importlib.metadata.entry_points(group="torch_dynamo_backends", name="helion")
            backend = point.load()
            assert backend.__name__ == "helion" and callable(backend.reset)
            assert "torch" not in sys.modules
            """,
            installed,
        )

    def test_torch_finds_it_without_importing_the_compiler(self, installed):
        run(
            """
            import torch
            from torch._dynamo.backends.registry import lookup_backend
            from helion_compile.frontend.backend import helion
            for _ in range(2):
                assert lookup_backend("helion") is helion
            assert "helion_compile.frontend.compile_graph" not in sys.modules
            """,
            installed,
        )

    def test_several_threads_compile_first(self, installed):
        run(
            """
            import threading
            import torch
            from torch._dynamo.backends.registry import lookup_backend

            # torch 2.11 crashes where threads compile at once, with its own backend too: there they look ours up.
            compiles = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
            together, failed = threading.Barrier(4), []

            def compile_and_run():
                x = torch.ones(2)
                together.wait()
                try:
                    if compiles:
                        assert torch.equal(torch.compile(lambda x: x + 1, backend="helion")(x), x + 1)
                    else:
                        assert callable(lookup_backend("helion"))
                except BaseException as error:
                    failed.append(f"{type(error).__name__}: {error}")

            threads = [threading.Thread(target=compile_and_run) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not failed, failed
            """,
            installed,
        )
